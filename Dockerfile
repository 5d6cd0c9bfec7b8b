# One image for every program of the toolkit:
# `docker compose run --rm demo python -m producers.put_records --help`
FROM python:3.13-slim AS packages

# What no hash vouches for is not installed, not even by the build of a package.
ENV PIP_REQUIRE_HASHES=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /toolkit
COPY requirements requirements
# amazon_kclpy is a source distribution: it is built with the pinned build requirements and no
# others, which then go again.
RUN python -m venv /venv \
 && /venv/bin/pip install -r requirements/build.txt \
 && /venv/bin/pip install --no-build-isolation -r requirements/run.txt \
 && /venv/bin/pip uninstall -y -r requirements/build.txt pip
COPY . .
# Readable for the user below, also from a checkout that was made under a strict umask.
RUN chmod -R a+rX /toolkit

FROM python:3.13-slim

# The programs write to the working folder's .stack, to HOME and to /tmp, and nowhere else.
RUN useradd --create-home --uid 10001 toolkit \
 && install -d -o toolkit -g toolkit /toolkit/.stack
COPY --from=packages /venv /venv
COPY --from=packages /toolkit /toolkit
WORKDIR /toolkit
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER toolkit
# The jars that amazon_kclpy fetched while it was built are those of consumers/kcl/jars.sha256.
RUN python -m consumers.kcl.jars
ENTRYPOINT ["/toolkit/infra/compose/entrypoint.sh"]
CMD ["python", "-m", "kit", "--help"]
