"""The jars of the Kinesis Client Library, verified before a JVM sees them.

`amazon_kclpy` fetches 79 jars from Maven Central while its wheel is built and checks nothing;
behind a bad proxy that has given empty and truncated files. The SHA-256 of each is kept here, in
the format of `sha256sum`; they were compared with what Maven itself resolves and verifies.
`kclpy-ext` carries the same module with the jars inside and seventeen of them newer, so it has a
list of its own.

`python -m consumers.kcl.jars` says whether the installed jars are those of a list: exit status 0 if
they are, 1 if not. The launcher refuses to start a JVM in the same case.

Hashing the 34 MB takes less than a tenth of a second, so it is done at every start: a remembered
"was fine" would be one more file to trust.
"""

import argparse
import hashlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumers.errors import SetupError

LISTS: Final[Mapping[str, str]] = {
    "amazon_kclpy 3.1.3": "jars.sha256",
    "kclpy-ext 3.1.3.post4": "jars-ext.sha256",
}
_SHOWN: Final = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Verify the installed jars."""
    parser = argparse.ArgumentParser(
        prog="python -m consumers.kcl.jars",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    try:
        jars = verified_jars()
    except SetupError as error:
        print(f"consumers.kcl.jars: {error}", file=sys.stderr)
        return 1
    print(f"verified: {len(jars)} jars in {jars[0].parent}")
    return 0


@dataclass(frozen=True, slots=True)
class JarList:
    """A release and the SHA-256 of each of its jars, by file name."""

    release: str
    digests: Mapping[str, str]


def verified_jars(folder: Path | None = None) -> list[Path]:
    """Return the jars, every one of them known and unaltered, and none missing.

    Args:
        folder: Where they are; by default inside the installed `amazon_kclpy`.

    Raises:
        SetupError: `amazon_kclpy` is not installed, or a jar is missing, altered or unknown.
    """
    folder = folder or _installed_folder()
    found = {path.name: path for path in sorted(folder.glob("*.jar"))}
    expected = _closest(known_releases(), set(found))
    missing = sorted(set(expected.digests) - set(found))
    unknown = sorted(set(found) - set(expected.digests))
    altered = [
        name
        for name, path in found.items()
        if name in expected.digests and _sha256(path) != expected.digests[name]
    ]
    complaints = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if names[_SHOWN:] else ''}"
        for what, names in (("missing", missing), ("altered", altered), ("not known", unknown))
        if names
    ]
    if complaints:
        raise SetupError(
            f"the jars in {folder} are not those of {expected.release}; {'; '.join(complaints)}."
            " No JVM was started. Install the release again, with a cleared cache"
        )
    return list(found.values())


def known_releases() -> list[JarList]:
    """Return the lists that come with this package."""
    return [
        JarList(release, _parse((Path(__file__).parent / name).read_text(encoding="ascii")))
        for release, name in LISTS.items()
    ]


def _installed_folder() -> Path:
    found = importlib.util.find_spec("amazon_kclpy")
    if found is None or found.origin is None:
        raise SetupError(
            "amazon_kclpy is not installed: pip install amazon_kclpy==3.1.3, or, where Maven"
            " Central cannot be reached, kclpy-ext==3.1.3.post4"
        )
    return Path(found.origin).parent / "jars"


def _closest(releases: list[JarList], names: set[str]) -> JarList:
    # File names carry versions, so the release that shares most names is the one meant; whether
    # it is that release is what the digests say.
    return max(releases, key=lambda release: len(names & set(release.digests)))


def _parse(text: str) -> Mapping[str, str]:
    pairs = (line.split() for line in text.splitlines() if line.strip())
    return {name: digest for digest, name in pairs}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
