"""Who takes part in `benchmarks/producer.py`: each in a process of its own.

It is asked for one job after the other, and the CPU time of each is that of the process and its
children.
"""

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.producer_protocol import Done, Job
from infra.processes import start

ROOT: Final = Path(__file__).resolve().parent.parent
HERE: Final = ROOT / "benchmarks"
PEERS: Final = Path(sys.prefix) / "peers" / "bin" / "python"
TICKS: Final = os.sysconf("SC_CLK_TCK")

KPL_READY: Final = "Successfully updated shard map"
# Its own limiter runs, as everybody's, and stops nobody.
KPL_SETTINGS: Final = ("AggregationEnabled=true", "RateLimit=1000000")
KPL_OUTSTANDING: Final = "20000"
KPL_BUILD_SECONDS: Final = 300

ANSWER_SECONDS: Final = 600.0
END_SECONDS: Final = 10.0


class AbsentError(Exception):
    """Somebody cannot take part; the message says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the null Kinesis listens."""

    url: str
    tls_url: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job, and what it cost in CPU seconds."""

    done: Done
    cpu_seconds: float

    @property
    def wall(self) -> float:
        """Seconds for each record, or call."""
        return self.done.seconds / self.done.confirmed

    @property
    def cpu(self) -> float:
        """CPU seconds for each record, or call."""
        return self.cpu_seconds / self.done.confirmed


class Contender:
    """A process that does jobs.

    Raises:
        AbsentError: it ended instead of answering.
    """

    def __init__(self, name: str, argv: list[str], log: Path) -> None:
        self.name = name
        self._log = log
        self._first = 0
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pids = family(self._process.pid)
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()  # It ends by itself when there are no more jobs.
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self._process.wait()

    def do(self, **fields: float | str | bool) -> Outcome:
        """Do a job, given as the fields of `Job`; its keys were never used before."""
        job = Job(**{"first": self._first, **fields})  # type: ignore[arg-type]
        self._first += job.count
        before = cpu_seconds(self._process.pid)
        done = self._ask(json.dumps(asdict(job)))
        spent = cpu_seconds(self._process.pid) - before
        if done.confirmed != job.count:
            raise AbsentError(f"confirmed {done.confirmed} of {job.count} records")
        # The system counts in ticks; what is shorter was something all the same.
        return Outcome(done, max(spent, 1 / TICKS))

    def said(self, text: str) -> bool:
        """Whether its log has this."""
        return text in self._log.read_text(errors="replace")

    def _ask(self, line: str) -> Done:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise AbsentError(self._last_words()) from None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(ANSWER_SECONDS):
                raise AbsentError(f"no answer in {ANSWER_SECONDS:.0f} s")
        if not (answer := stdout.readline()):
            raise AbsentError(self._last_words())
        return Done(**json.loads(answer))

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"


@dataclass(slots=True)
class Field:
    """Everything there is to start, and what could not be.

    Attributes:
        endpoint: It answers at once.
        absent: Who is missing, and why.
    """

    endpoint: Endpoint
    folder: Path
    absent: dict[str, str] = field(default_factory=dict)
    _kpl: list[str] | None = None

    @contextmanager
    def contender(self, name: str, endpoint: Endpoint | None = None) -> Iterator[Contender]:
        """Start somebody; `endpoint` is another one than the one that answers at once.

        Raises:
            AbsentError: it is not installed.
        """
        argv = self._argv(name, endpoint or self.endpoint)
        log = Path(tempfile.mkdtemp(dir=self.folder)) / "stderr"
        with Contender(name, argv, log) as contender:
            if name == "kpl":
                wait_for_shards(contender)
            yield contender

    def _argv(self, name: str, endpoint: Endpoint) -> list[str]:
        if name == "kpl":
            port = endpoint.tls_url.rpartition(":")[2]
            return [*self._kpl_command(), port, KPL_OUTSTANDING, *KPL_SETTINGS]
        if name in {"aiokpl", "async_kinesis"}:
            if not PEERS.exists():
                raise AbsentError(f"there is no {PEERS}: `make bench` sets it up")
            return [str(PEERS), str(HERE / "producer_peers.py"), name, endpoint.url]
        load, tls = name.removesuffix("_tls"), name.endswith("_tls")
        url = endpoint.tls_url if tls else endpoint.url
        return [sys.executable, str(HERE / "producer_load.py"), load, url]

    def _kpl_command(self) -> list[str]:
        if self._kpl is None:
            self._kpl = build_kpl(self.folder)
        return self._kpl


@contextmanager
def field_of(folder: Path) -> Iterator[Field]:
    """Start the endpoint that everybody puts to."""
    with null_kinesis(folder) as endpoint:
        yield Field(endpoint, folder)


@contextmanager
def null_kinesis(folder: Path, *, delay_ms: float = 0.0) -> Iterator[Endpoint]:
    """Start an endpoint that answers after a delay, and stop it at the end."""
    argv = [sys.executable, str(HERE / "null_kinesis.py"), "--tls", "--delay", str(delay_ms)]
    with ExitStack() as stack:
        process = stack.enter_context(
            start(argv, name=f"null-{delay_ms:g}", log_dir=folder, cwd=ROOT)
        )
        url = process.wait_for_line(r"^ready (http://\S+)$", timeout=30)[1]
        secure = process.wait_for_line(r"^tls (https://\S+)$", timeout=30)[1]
        yield Endpoint(url, secure)


def build_kpl(folder: Path) -> list[str]:
    """Build the program that loads the KPL, and return how to run it.

    Raises:
        AbsentError: there is no Java or no Maven, or Maven cannot fetch the KPL (125 MB, once).
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise AbsentError(f"there is no {program}")
    build = folder / "kpl"
    command = ["mvn", "-q", "-B", "-f", str(HERE / "kpl" / "pom.xml"), f"-Dkpl.build={build}"]
    said = ""
    for how in (["--offline"], []):
        try:
            done = subprocess.run(
                [*command, *how, "compile"],
                capture_output=True,
                text=True,
                check=False,
                timeout=KPL_BUILD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise AbsentError(f"Maven was not done in {KPL_BUILD_SECONDS} s") from None
        if done.returncode == 0:
            classpath = f"{build / 'classes'}{os.pathsep}{(build / 'classpath').read_text()}"
            # It unpacks its native program into the folder for temporary files.
            return ["java", f"-Djava.io.tmpdir={folder}", "-cp", classpath, "Load"]
        said = (done.stdout + done.stderr).strip()
    raise AbsentError(f"Maven cannot build it: {said.splitlines()[-1:]}")


def wait_for_shards(kpl: Contender, turns: int = 100) -> None:
    """Wait until the KPL knows the shards: until then it aggregates nothing.

    Raises:
        AbsentError: it does not come to know them.
    """
    for _ in range(turns):
        kpl.do(count=1)
        if kpl.said(KPL_READY):
            return
    raise AbsentError("the KPL does not find the shards")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children, all threads together."""
    total = 0
    for each in family(pid):
        with suppress(OSError):  # It has just ended.
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def family(pid: int) -> list[int]:
    """Return a process and what it has started, directly or not."""
    pids = [pid]
    for each in pids:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            with suppress(OSError):
                pids += [int(child) for child in task.read_text().split()]
    return pids
