# Everything a fresh clone needs is set up by the target that needs it; a second run starts in seconds.
#
#   make demo [DEMO="--json"]            the whole story on real engines, with a verdict
#   make test [TEST="tests/unit -k map"] the default test suite, no Docker
#   make check                           ruff, ruff format, mypy strict
#   make test-containers                 the suite against LocalStack and Mosquitto containers
#   make bench BENCH="codec --json"      one file of benchmarks/ beside its peers
#   make lock                            compile requirements/*.in anew (needs uv)

# Most tests wait for an engine: two workers, each with engines of its own, halve the time. A file
# stays in one worker, and the slow ones come first. `make test SPREAD=` runs one test after the other.
SPREAD ?= -n 2 --dist loadfile --no-loadscope-reorder

# The first Python that is new enough; `make PYTHON=... demo` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
NODE := infra/stack/node
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

# Also for what a package's own build would fetch: nothing unchecked is installed.
export PIP_REQUIRE_HASHES := 1

.PHONY: demo test check test-containers bench setup lock clean

demo: $(VENV)/.run $(NODE)/node_modules/.installed
	@$(BIN)/kit demo $(DEMO)

test: $(VENV)/.test $(NODE)/node_modules/.installed
	$(BIN)/pytest $(SPREAD) -m "not containers" $(TEST)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-containers: $(VENV)/.test $(NODE)/node_modules/.installed
	$(BIN)/pytest $(SPREAD) --stack containers tests/integration $(TEST)

bench: $(VENV)/.bench $(VENV)/peers/.installed $(NODE)/node_modules/.installed
	@$(BIN)/python benchmarks/$(firstword $(BENCH)).py $(wordlist 2,99,$(BENCH))

setup: $(VENV)/.test $(NODE)/node_modules/.installed

# amazon_kclpy is a source distribution that fetches its jars while it is built. It is built with
# pinned tools (no isolation), and its jars are held against consumers/kcl/jars.sha256 before use.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 on the PATH (set PYTHON=)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.build: requirements/build.txt pyproject.toml | $(BIN)/python
	@$(PIP) -r requirements/build.txt
	@# The checkout itself has no hash, and brings nothing else along.
	@PIP_REQUIRE_HASHES= $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.run: requirements/embedded.txt consumers/kcl/jars.sha256 $(VENV)/.build
	@echo "Setting up: Python packages"
	@$(PIP) --no-build-isolation -r requirements/embedded.txt
	@$(BIN)/python -m consumers.kcl.jars
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.run
	@echo "Setting up: the tests' packages"
	@$(PIP) --no-build-isolation -r requirements/test.txt
	@touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.test
	@echo "Setting up: the benchmarks' peers"
	@$(PIP) --no-build-isolation -r requirements/bench.txt
	@touch $@

# They need another botocore than ours.
$(VENV)/peers/.installed: requirements/bench-peers.txt | $(BIN)/python
	@echo "Setting up: the peers with an environment of their own"
	@$(BIN)/python -m venv $(VENV)/peers
	@$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check --no-input -r $<
	@touch $@

# npm of the machine, else the one inside the wheel; no script of a package is run.
$(NODE)/node_modules/.installed: $(NODE)/package-lock.json $(VENV)/.run
	@echo "Setting up: the embedded stack's npm packages"
	@cd $(NODE) && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# Hashes, and no index address, so that any mirror serves them.
UV_COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet
lock:
	$(UV_COMPILE) requirements/build.in -o requirements/build.txt
	$(UV_COMPILE) requirements/embedded.in -o requirements/embedded.txt
	$(UV_COMPILE) requirements/run.in -c requirements/embedded.txt -o requirements/run.txt
	$(UV_COMPILE) requirements/test.in -c requirements/embedded.txt -o requirements/test.txt
	$(UV_COMPILE) requirements/bench.in -c requirements/test.txt -o requirements/bench.txt
	$(UV_COMPILE) requirements/bench-peers.in -o requirements/bench-peers.txt

clean:
	rm -rf $(VENV) $(NODE)/node_modules .stack .mypy_cache .ruff_cache .pytest_cache .hypothesis
