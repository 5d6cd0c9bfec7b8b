"""Writes what the daemon needs into the work directory, then becomes the JVM.

There is no process between the caller and the JVM: `execve` keeps the process ID, so a SIGTERM
reaches the JVM's own shutdown hook, and a `kill -9` leaves nothing behind that could be orphaned
(the children see their pipe close).
"""

import fcntl
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from consumers.errors import SetupError
from consumers.kcl.events import EVENTS_FILE, Journal, end_torn_line
from consumers.kcl.jvm import Jvm
from consumers.kcl.properties import WorkerSettings, build

PROPERTIES_FILE: Final = "kcl.properties"
LOGBACK_FILE: Final = "kcl-logback.xml"
CHILD_FILE: Final = "child.sh"
LOG_FILE: Final = "kcl.log"
LOCK_FILE: Final = "lock"

COMMAND: Final = f"/bin/sh {CHILD_FILE}"
"""How the daemon starts a child: relative to the work directory, since KCL splits a command at
every space and a path may contain one."""

MAX_EVENTS_BYTES: Final = 8 * 1024 * 1024
_MAIN_CLASS: Final = "software.amazon.kinesis.multilang.MultiLangDaemon"

# A child's standard error is printed raw by the daemon and logged at ERROR as well; once is enough.
_LOGBACK: Final = f"""\
<configuration>
  <appender name="FILE" class="ch.qos.logback.core.rolling.RollingFileAppender">
    <file>{LOG_FILE}</file>
    <rollingPolicy class="ch.qos.logback.core.rolling.FixedWindowRollingPolicy">
      <fileNamePattern>{LOG_FILE}.%i</fileNamePattern>
      <minIndex>1</minIndex>
      <maxIndex>3</maxIndex>
    </rollingPolicy>
    <triggeringPolicy class="ch.qos.logback.core.rolling.SizeBasedTriggeringPolicy">
      <maxFileSize>16MB</maxFileSize>
    </triggeringPolicy>
    <encoder>
      <pattern>%d [%thread] %-5level %logger{{36}} [%mdc{{ShardId:-}}] %msg%n</pattern>
    </encoder>
  </appender>
  <appender name="CONSOLE" class="ch.qos.logback.core.ConsoleAppender">
    <filter class="ch.qos.logback.classic.filter.ThresholdFilter"><level>WARN</level></filter>
    <encoder><pattern>%-5level %logger{{0}} %msg%n%ex{{1}}</pattern></encoder>
  </appender>
  <logger name="software.amazon.kinesis.multilang.DrainChildSTDERRTask" additivity="false">
    <appender-ref ref="FILE"/>
  </logger>
  <root level="INFO"><appender-ref ref="FILE"/><appender-ref ref="CONSOLE"/></root>
</configuration>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All that is needed to become the worker.

    Args:
        work_dir: Its folder, used by one running worker at a time.
        settings: The daemon's.
        child: Arguments of `consumers.kcl.child`.
        jvm: The JVM.
        jars: Verified.
        heap: The JVM's greatest heap, as `-Xmx` takes it.
    """

    work_dir: Path
    settings: WorkerSettings
    child: Sequence[str]
    jvm: Jvm
    jars: Sequence[Path]
    heap: str = "256m"


def launch(plan: Launch, environ: Mapping[str, str]) -> NoReturn:
    """Write the files and become the JVM.

    Args:
        plan: What to start.
        environ: The environment that the JVM and the children get.

    Raises:
        SetupError: Another worker is running in the work directory, or the settings are wrong.
    """
    text = build(plan.settings)
    plan.work_dir.mkdir(parents=True, exist_ok=True)
    _lock(plan.work_dir)
    (plan.work_dir / PROPERTIES_FILE).write_text(text, encoding="ascii")
    (plan.work_dir / LOGBACK_FILE).write_text(_LOGBACK, encoding="utf-8")
    # In the encoding of file names, as which the arguments were read: they come back as they were.
    (plan.work_dir / CHILD_FILE).write_bytes(os.fsencode(child_script(plan.child)))
    _put_aside(plan.work_dir / EVENTS_FILE)
    end_torn_line(plan.work_dir)
    Journal(plan.work_dir).event("starting", worker_id=plan.settings.worker_id)
    environment = {**environ, "PYTHONPATH": os.pathsep.join(_import_path(environ))}
    os.chdir(plan.work_dir)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(plan.jvm.executable, java_command(plan), environment)  # noqa: S606 - no shell wanted


def java_command(plan: Launch) -> list[str]:
    """Return the command line of the JVM, to be run in the work directory."""
    flags = [
        f"-Xmx{plan.heap}",
        "-XX:+UseSerialGC",  # one small heap; the parallel collectors only add threads to it
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dlogback.configurationFile={LOGBACK_FILE}",
        # KCL talks to the children in the JVM's default encoding. Under LC_ALL=C, before Java 18,
        # that is ASCII, and every other letter of a partition key would arrive as a "?".
        "-Dfile.encoding=UTF-8",
    ]
    if plan.settings.tuning == "local":
        # Engines other than AWS may not speak CBOR, and C2 has no time to pay off.
        flags += ["-Daws.cborEnabled=false", "-XX:TieredStopAtLevel=1"]
    if plan.jvm.version >= 24:
        # Netty and protobuf use what these releases warn about on every start.
        flags += ["--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"]
    return [
        str(plan.jvm.executable),
        *flags,
        "-cp",
        os.pathsep.join(str(jar.absolute()) for jar in plan.jars),
        _MAIN_CLASS,
        "--properties-file",
        str(plan.work_dir.absolute() / PROPERTIES_FILE),
    ]


def child_script(arguments: Sequence[str]) -> str:
    """Return the shell script that the daemon runs for each shard; it `exec`s, so it is gone."""
    # -P: the work directory is the current one and must not be imported from.
    command = [sys.executable, "-P", "-m", f"{__package__}.child", *arguments]
    return f"exec {shlex.join(command)}\n"


def _lock(work_dir: Path) -> None:
    # Held by the JVM, which inherits the descriptor and closes it in its children: it is free
    # again the moment the JVM is dead, however it died.
    descriptor = os.open(work_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SetupError(f"another worker is running in {work_dir}") from error
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - its only parameter


def _put_aside(path: Path) -> None:
    if path.exists() and path.stat().st_size > MAX_EVENTS_BYTES:
        path.replace(path.with_suffix(".jsonl.1"))


def _import_path(environ: Mapping[str, str]) -> list[str]:
    # The child imports this package and the caller's sink from where this process does.
    here = str(Path(__file__).parents[len((__package__ or "").split("."))])
    inherited = environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(Path(path).absolute()) for path in (sys.path[0], here, *inherited) if path]
    return list(dict.fromkeys(paths))
