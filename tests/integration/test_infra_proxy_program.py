"""`python -m infra.proxy` as a person runs it: what it prints, how it ends, what it survives."""

import http.client
import json
import os
import pty
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from infra.proxy import control
from infra.proxy.corrections import names
from tests.proxy_process import GET_POLICY, ROOT, ask, proxy_before
from tests.scripted_upstream import Upstream, ok
from tests.support import eventually


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    opened = Upstream(ok())
    yield opened
    opened.close()


def run(*options: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "infra.proxy", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env=env,
    )


@contextmanager
def piped(*options: str, env: dict[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """The program with its two streams apart; it has ended when the block ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "infra.proxy", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=env,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# What it prints.


def test_json_has_a_life_from_ready_to_end(upstream: Upstream):
    with piped("--upstream", upstream.url, "--json") as process:
        assert process.stdout
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready"
        assert ready["tls_url"] is None
        assert ask(ready["url"]) == (200, b"{}")
        status = json.loads(process.stdout.readline())
        while not status["requests"]:
            status = json.loads(process.stdout.readline())
        assert status["event"] == "status"
        assert status["operations"]["GetResourcePolicy"] == {"requests": 1, "refused": 0}
        control.lose(ready["url"], "GetResourcePolicy")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(ready["url"])
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0
    lines = [json.loads(line) for line in rest.splitlines()]
    assert {line["event"] for line in lines[:-1]} <= {"status"}
    assert lines[-1]["event"] == "end"
    assert (lines[-1]["requests"], lines[-1]["lost"]) == (2, 1)


def test_plain_says_where_it_is_then_faults_then_what_it_came_to(upstream: Upstream):
    with piped("--upstream", upstream.url) as process:
        assert process.stdout
        assert process.stderr
        word, url = process.stdout.readline().split()
        assert word == "ready"
        control.lose(url, "GetResourcePolicy")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(url)
        assert " s  lose: request 1, GetResourcePolicy: " in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
    assert out == ""
    assert err.startswith("end: 1 request, 0 refused,")
    assert "1 fault (1 answer lost)" in err
    assert err.count("\n") == 1


def test_a_terminal_gets_a_table(upstream: Upstream):
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "infra.proxy", "--upstream", upstream.url],
            stdout=subprocess.PIPE,
            stderr=theirs,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
        ) as process:
            try:
                assert process.stdout
                url = process.stdout.readline().split()[1].decode()
                assert ask(url) == (200, b"{}")
                shown = screen(ours, lambda text: "GetResourcePolicy" in text)
                assert f"proxy → {upstream.url}" in shown
                process.send_signal(signal.SIGINT)
                shown = screen(ours, lambda text: "upstream errors\r\n" in text)
                assert "end: 1 request" in shown
                assert process.wait(30) == 0
            finally:
                process.kill()
    finally:
        os.close(theirs)
        os.close(ours)


def screen(terminal: int, enough: Callable[[str], bool]) -> str:
    """Read what was written to a terminal until it is enough."""
    seen = b""

    def read() -> bool:
        nonlocal seen
        while select.select([terminal], [], [], 0)[0]:
            seen += os.read(terminal, 65536)
        return enough(seen.decode(errors="replace"))

    eventually(read, message="enough on the screen")
    return seen.decode(errors="replace")


def test_tls_is_announced_and_its_certificate_can_be_trusted(upstream: Upstream, tmp_path: Path):
    ca = tmp_path / "ca.pem"
    with proxy_before(upstream.url, "--tls", "--ca-file", str(ca), log_dir=tmp_path) as proxy:
        assert proxy.ca_file == ca
        context = ssl.create_default_context(cafile=str(ca))
        connection = http.client.HTTPSConnection(
            "localhost", proxy.tls_port, timeout=30, context=context
        )
        connection.request("POST", "/", b"{}", GET_POLICY)
        assert connection.getresponse().read() == b"{}"
        connection.close()
        stranger = ssl.create_default_context()
        untrusting = http.client.HTTPSConnection(
            "localhost", proxy.tls_port, timeout=30, context=stranger
        )
        with pytest.raises(ssl.SSLCertVerificationError):
            untrusting.request("POST", "/", b"{}", GET_POLICY)
        untrusting.close()
        assert proxy.status()["requests"] == 1


def test_without_a_file_of_ones_own_the_certificate_goes_when_the_proxy_does(
    upstream: Upstream, tmp_path: Path
):
    with proxy_before(upstream.url, "--tls", log_dir=tmp_path) as proxy:
        assert proxy.ca_file
        assert proxy.ca_file.read_text().startswith("-----BEGIN CERTIFICATE-----")
        assert proxy.process.terminate() == 0
        assert not proxy.ca_file.parent.exists()


def test_the_engine_of_the_environment_is_the_default(upstream: Upstream):
    nowhere = "http://127.0.0.1:9"
    env = {**os.environ, "AWS_ENDPOINT_URL": nowhere, "AWS_ENDPOINT_URL_KINESIS": upstream.url}
    for _ in range(2):
        with piped("--json", env=env) as process:
            assert process.stdout
            ready = json.loads(process.stdout.readline())
            assert control.status(ready["url"])["upstream"].rstrip("/") == upstream.url
        env.pop("AWS_ENDPOINT_URL_KINESIS", None)
        env["AWS_ENDPOINT_URL"] = upstream.url


def test_whoever_opens_it_to_others_is_told_what_they_cannot_do(upstream: Upstream, tmp_path: Path):
    with proxy_before(upstream.url, "--host", "0.0.0.0", log_dir=tmp_path) as proxy:
        proxy.process.wait_for_line(r"WARNING others can reach 0\.0\.0\.0; the control", 10)
        local = proxy.url.replace("0.0.0.0", "127.0.0.1")
        assert ask(local) == (200, b"{}")
        assert control.status(local)["requests"] == 1


# How it ends.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--upstream", "https://kinesis.us-east-1.amazonaws.com"], "leads to AWS"),
        (["--upstream", "127.0.0.1:4566"], "not an http"),
        (["--scenario", "/no/such/scenario.toml"], "/no/such/scenario.toml"),
        (["--correct", "no-such-correction"], "no-such-correction"),
        (["--quotas", "some"], "--quotas"),
        (["--port", "65536"], "not a port"),
        (["--ca-file", "ca.pem"], "go with --tls"),
        (["--time-scale", "0"], "not a number above 0"),
        (["--tls", "--ca-file", "/no/such/folder/ca.pem"], "/no/such/folder/ca.pem"),
    ],
)
def test_what_cannot_work_is_one_line_and_2(options: list[str], words: str):
    upstream = [] if "--upstream" in options else ["--upstream", "http://127.0.0.1:9"]
    ended = run(*upstream, *options)
    assert ended.returncode == 2
    assert words in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_scenario_that_is_wrong_names_the_field(tmp_path: Path):
    scenario = tmp_path / "wrong.toml"
    scenario.write_text('[[fault]]\naction = "lose"\noperatoin = "PutRecords"\n')
    ended = run("--upstream", "http://127.0.0.1:9", "--scenario", str(scenario))
    assert ended.returncode == 2
    assert "operatoin" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_upstream_at_all_is_bad_usage():
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ended = run(env=env)
    assert ended.returncode == 2
    assert "--upstream" in ended.stderr


def test_a_taken_port_is_one_line_and_1():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for option in ("--port", "--tls-port"):
            ended = run("--upstream", "http://127.0.0.1:9", "--tls", option, port)
            assert ended.returncode == 1
            assert "cannot listen" in ended.stderr
            assert "Traceback" not in ended.stderr


def test_whoever_stops_reading_the_json_stops_the_proxy(upstream: Upstream):
    with piped("--upstream", upstream.url, "--json") as process:
        assert process.stdout
        assert process.stderr
        ready = json.loads(process.stdout.readline())
        process.stdout.close()
        with suppress(OSError, http.client.HTTPException):  # it may have ended by then
            ask(ready["url"])
        assert process.wait(30) == 1
        assert process.stderr.read() == ""


def test_help_teaches():
    ended = run("--help", env={**os.environ, "COLUMNS": "100"})
    assert ended.returncode == 0
    for words in (
        "What it shows", "--quotas aws --correct", "/_proxy/status", "Exit status",
        *names.ALL, "so that KCL can start",
    ):  # fmt: skip
        assert words in " ".join(ended.stdout.split())
