"""Take a template home: the file, exactly what it imports from here, and nothing else.

`kit copy producers/put_records.py --into src/app` writes ``src/app/put_records.py`` and, beside it,
the modules that it reaches through its imports (``src/app/records/limits.py`` …). Imports become
relative, so the result runs in a package of any depth and knows nothing of this checkout. What is
copied twice into one target is shared: equal files are left as they are.

`plan` reads and decides, `render` writes one file's text, `copy` is the thin part that touches the
target.
"""

import difflib
import keyword
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TextIO

from kit.copy_plan import CopyError, CopyPlan, Use, plan
from kit.copy_render import HEADER, render

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Template:
    """A runnable of this checkout.

    Args:
        path: The file or package, from the checkout's root.
        wish: What a person wants who should take it; completes "I want to …".
    """

    path: str
    wish: str


TEMPLATES = (
    Template("producers/put_records.py", "put records and know what became of each one"),
    Template("producers/aggregated", "put many small records cheaply, packed in KPL aggregates"),
    Template("producers/replay.py", "put what could not be delivered, kept in a file, again"),
    Template("consumers/kcl", "consume a stream with the Kinesis Client Library, each record once"),
    Template("iot/device.py", "run a device that publishes telemetry and follows its shadow"),
    Template("iot/shadow_client.py", "read, set and watch a device's shadow from an application"),
    Template("iot/shadows", "give a plain MQTT broker AWS IoT's shadow topics"),
    Template("iot/bridge.py", "move telemetry from MQTT into a stream and lose none of it"),
    Template("iot/fleet.py", "simulate a fleet of devices that remembers what it really sent"),
    Template("infra/provision.py", "create streams, tables, buckets and queues, idempotently"),
    Template("infra/proxy", "make an emulator behave like AWS: quotas, bad days, corrections"),
    Template("infra/conformance", "see what an endpoint answers other than AWS"),
)


def copy(
    template: str,
    into: Path,
    *,
    root: Path = ROOT,
    force: bool = False,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Copy a template into a package of another project, and say what came and what it needs.

    Either every file is written or none is: a file in the target that differs stops the copy.

    Args:
        template: See `plan`.
        into: The package's folder, made when missing; its name becomes part of module names.
        root: The checkout that is copied from.
        force: Whether to overwrite files that differ.
        out: Where the account goes; standard output by default.
        err: Where complaints go; standard error by default.

    Returns:
        0 if the target now holds the template, 1 if files there differ (nothing was written), 2 if
        the template or the target cannot be used.
    """
    out, err = out or sys.stdout, err or sys.stderr
    try:
        planned = plan(root, template)
        package = package_name(into)
        origin = _origin(root)
        contents = {
            target: (
                render(root, planned, source, package=package, origin=origin).encode()
                if source.suffix == ".py"
                else (root / source).read_bytes()
            )
            for source, target in planned.files.items()
        }
    except CopyError as error:
        near = difflib.get_close_matches(template, {t.path for t in TEMPLATES} - {template}, 1)
        hint = f"; perhaps {near[0]}?" if near else ""
        print(f"kit copy: {error}{hint} (see kit copy --list)", file=err)
        return 2
    changed = {name: data for name, data in contents.items() if not _same(into / name, data)}
    differing = [str(into / name) for name in changed if (into / name).exists()]
    if differing and not force:
        print("kit copy: these files differ from what would be written (--force):", file=err)
        print(*(f"  {name}" for name in differing), sep="\n", file=err)
        return 1
    _write(into, contents, changed, planned.folders, out)
    _explain(planned, into, package, out)
    return 0


def list_templates(out: TextIO | None = None) -> int:
    """Print the templates, one per line, each behind what a person may want; returns 0."""
    width = max(len(template.path) for template in TEMPLATES)
    for template in TEMPLATES:
        print(f"{template.path:{width}}  I want to {template.wish}", file=out or sys.stdout)
    return 0


def package_name(into: Path) -> str:
    """The dotted name of a folder as a package.

    It starts below the folder `src` when the path is written with one (`src/my/app` is `my.app`),
    and else above no parent that has no ``__init__.py``.

    Raises:
        CopyError: The folder cannot be a package.
    """
    folder = into.resolve()
    depth = 1
    if "src" in into.parts[:-1] and not into.is_absolute():
        depth = into.parts[::-1].index("src")
    while (folder.parents[depth - 1] / "__init__.py").exists():
        depth += 1
    names = folder.parts[-depth:]
    if into.exists() and not into.is_dir():
        raise CopyError(f"{into} is a file, not a folder")
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        raise CopyError(f"{'.'.join(names)!r} cannot be imported, so {into} cannot be a package")
    return ".".join(names)


def _origin(root: Path) -> str:
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    version = f"{project['name']} {project['version']}"
    if not (root / ".git").exists():
        return version
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return version
    return f"{version} (commit {answer.stdout.strip()})" if answer.returncode == 0 else version


def _same(path: Path, data: bytes) -> bool:
    """Whether a file holds this content already, whichever commit its header names."""
    if not path.is_file():
        return False
    held = path.read_bytes().splitlines(keepends=True)
    return _without_header(held) == _without_header(data.splitlines(keepends=True))


def _without_header(lines: list[bytes]) -> list[bytes]:
    return [line for n, line in enumerate(lines) if n > 1 or not line.startswith(HEADER.encode())]


def _write(
    into: Path,
    contents: dict[PurePosixPath, bytes],
    changed: Iterable[PurePosixPath],
    folders: Iterable[PurePosixPath],
    out: TextIO,
) -> None:
    written = set(changed)
    for name, data in contents.items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in written:
            path.write_bytes(data)
        print("wrote " if name in written else "kept  ", path, file=out)
    for folder in folders:
        init = into / folder / "__init__.py"
        if not init.exists():
            init.touch()
            print("made  ", init, file=out)


def _explain(plan: CopyPlan, into: Path, package: str, out: TextIO) -> None:
    packages = {use: [str(r) for r in plan.requirements if r.use == use] for use in Use}
    print("\nneeds  Python 3.11 or newer", *packages[Use.NEEDED], sep=", ", file=out)
    if sought := packages[Use.LOOKED_FOR]:
        print(f"seeks  {', '.join(sought)} (looked for when it runs)", file=out)
    if types := packages[Use.TYPES]:
        print(f"types  {', '.join(types)} (for a type checker only)", file=out)
    if plan.runnable:
        base = into.resolve().parents[package.count(".")]
        here = Path.cwd()
        path = base.relative_to(here) if base.is_relative_to(here) else base
        prefix = "" if base == here else f"PYTHONPATH={path} "
        print(f"run    {prefix}python -m {package}.{plan.module} --help", file=out)
