"""What the proxy survives: a killed engine, killed clients, a signal amid requests."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.processes import GuardedProcess, start
from tests.proxy_process import GET_POLICY, ROOT, ask, policy_of, proxy_before
from tests.support import eventually

HOLD = policy_of("hold")


class Stalling:
    """The stalling upstream, which can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.starts = 0
        self.port = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        command = [sys.executable, str(ROOT / "tests" / "stalling_upstream.py"), str(self.port)]
        self.process: GuardedProcess = start(
            command, name=f"upstream-{self.starts}", log_dir=self._folder
        )
        self.port = int(self.process.wait_for_line(r"^ready (\d+)$", 10)[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def count(self, line: str) -> int:
        return self.process.lines().count(line)


@pytest.fixture
def stalling(tmp_path: Path) -> Iterator[Stalling]:
    upstream = Stalling(tmp_path / "upstream")
    yield upstream
    upstream.process.close()


@pytest.mark.parametrize("options", [[], ["--quotas", "aws", "--correct"]])
def test_the_upstream_may_be_killed_and_come_back(
    stalling: Stalling, tmp_path: Path, options: list[str]
):
    with (
        proxy_before(stalling.url, *options, log_dir=tmp_path) as proxy,
        ThreadPoolExecutor() as pool,
    ):
        assert ask(proxy.url) == (200, b"{}")
        held = [pool.submit(ask, proxy.url, HOLD) for _ in range(3)]
        eventually(lambda: stalling.count("holding") == 3)
        assert stalling.process.kill() == -9
        for each in held:
            status, body = each.result(20)
            assert status == 502
            assert json.loads(body)["__type"] == "ServiceUnavailable"
        assert ask(proxy.url)[0] == 502  # nobody listens
        stalling.start()
        assert ask(proxy.url) == (200, b"{}")
        assert proxy.status()["upstream_errors"] == 4
        assert "Traceback" not in proxy.process.log_path.read_text()


def test_half_an_answer_of_a_killed_upstream_does_not_look_whole(
    stalling: Stalling, tmp_path: Path
):
    with (
        proxy_before(stalling.url, log_dir=tmp_path) as proxy,
        ThreadPoolExecutor() as pool,
    ):
        held = pool.submit(ask, proxy.url, policy_of("half"))
        stalling.process.wait_for_line("^holding$", 10)
        stalling.process.kill()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            held.result(20)
        stalling.start()
        assert ask(proxy.url) == (200, b"{}")


def sockets(process: GuardedProcess) -> int:
    """How many sockets a process holds."""
    found = 0
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            found += descriptor.readlink().name.startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def http1_clients(url: str, log_dir: Path) -> list[GuardedProcess]:
    code = (
        "import http.client, sys\n"
        "connection = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))\n"
        f"connection.request('POST', '/', {HOLD!r}, {GET_POLICY!r})\n"
        "connection.getresponse()\n"
    )
    command = [sys.executable, "-c", code, url.rpartition(":")[2]]
    return [start(command, name=f"client-{n}", log_dir=log_dir) for n in range(6)]


def http2_clients(url: str, log_dir: Path) -> list[GuardedProcess]:
    headers = [part for name, value in GET_POLICY.items() for part in ("-H", f"{name}: {value}")]
    command = ["curl", "--http2-prior-knowledge", "--silent", *headers, "--data", HOLD.decode()]
    return [start([*command, url], name=f"client-{n}", log_dir=log_dir) for n in range(6)]


@pytest.mark.parametrize("clients", [http1_clients, http2_clients])
@pytest.mark.parametrize("options", [[], ["--quotas", "aws", "--correct"]])
def test_a_client_that_is_killed_leaves_no_socket_behind(
    stalling: Stalling,
    tmp_path: Path,
    clients: Callable[[str, Path], list[GuardedProcess]],
    options: list[str],
):
    if clients is http2_clients and not curl_speaks_http2():
        pytest.skip("there is no curl that speaks HTTP/2")
    with proxy_before(stalling.url, *options, log_dir=tmp_path) as proxy:
        before = sockets(proxy.process)
        started = clients(proxy.url, tmp_path)
        eventually(lambda: stalling.count("holding") == 6, message="six requests at the upstream")
        assert sockets(proxy.process) >= before + 6
        for client in started:
            assert client.kill() == -9
        eventually(lambda: stalling.count("let go") == 6, message="six connections closed")
        eventually(lambda: sockets(proxy.process) <= before, message="no socket more than before")
        assert ask(proxy.url) == (200, b"{}")
        assert "Traceback" not in proxy.process.log_path.read_text()


def curl_speaks_http2() -> bool:
    if shutil.which("curl") is None:
        return False
    return "HTTP2" in subprocess.run(
        ["curl", "--version"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


def test_a_signal_ends_it_although_a_request_is_on_its_way(stalling: Stalling, tmp_path: Path):
    with (
        proxy_before(stalling.url, log_dir=tmp_path) as proxy,
        ThreadPoolExecutor() as pool,
    ):
        held = pool.submit(ask, proxy.url, HOLD)
        stalling.process.wait_for_line("^holding$", 10)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(20) == 0
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            held.result(10)
        assert "Traceback" not in proxy.process.log_path.read_text()
