"""What `kit copy` takes: a template's files, found by reading their imports.

A sub-package that is an engine of its own (it has code in its ``__init__`` or a ``__main__``) comes
whole, data files included. A package that is only a shelf of modules gives what is asked for.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path, PurePosixPath

ROOMS = frozenset({"records", "producers", "consumers", "iot", "infra"})


class CopyError(ValueError):
    """The template cannot be copied as it was asked for; the message says why."""


class Use(IntEnum):
    """What a package is for; the lower number wins when it is for more than one thing."""

    NEEDED = 0
    LOOKED_FOR = 1
    TYPES = 2


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that the copied files import.

    Args:
        name: The distribution's name.
        version: The version this checkout is tested with, or None if it pins none.
        use: Imported when the program runs, looked for with `find_spec`, or for a type checker.
    """

    name: str
    version: str | None
    use: Use

    def __str__(self) -> str:
        """The requirement as pip reads it."""
        return f"{self.name}=={self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What a copy consists of; nothing has been written yet.

    Args:
        template: The template's file or package, from the checkout's root.
        files: Each file's place in the checkout, and its place in the target.
        requirements: The third-party packages that these files import.
        runnable: Whether the template is a program (or only a module).
    """

    template: PurePosixPath
    files: dict[PurePosixPath, PurePosixPath]
    requirements: tuple[Requirement, ...]
    runnable: bool

    @property
    def module(self) -> str:
        """The template's module name within the target."""
        return self.template.stem

    @property
    def folders(self) -> tuple[PurePosixPath, ...]:
        """The target's packages, which need an ``__init__.py``; the target itself is ``.``."""
        modules = (file for file in self.files.values() if file.suffix == ".py")
        folders = {folder for file in modules for folder in file.parents}
        return tuple(sorted(folders))

    def modules(self) -> dict[str, str]:
        """The dotted name of each copied module and package, here and within the target."""
        names = {
            dotted(source): dotted(target)
            for source, target in self.files.items()
            if source.suffix == ".py"
        }
        return {here: there for here, there in names.items() if there}


def plan(root: Path, template: str) -> CopyPlan:
    """Decide which files a copy of a template consists of. Reads the checkout, writes nothing.

    Args:
        root: The checkout.
        template: A file or a package of it: `producers/put_records.py`, `consumers/kcl`, or the
            same as a module name.

    Raises:
        CopyError: There is no such template, or it imports what cannot be copied.
    """
    chosen = _locate(root, template)
    unit = _files_below(root, chosen) if (root / chosen).is_dir() else [chosen]
    found: set[PurePosixPath] = set()
    foreign: dict[str, Use] = {}
    pending = list(unit)
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix != ".py":
            continue
        for item in imports_of(root, path):
            for name in item.modules(root):
                pending += _unit(root, name)
            if item.package:
                foreign[item.package] = min(item.use, foreign.get(item.package, item.use))
    strip = len(chosen.parent.parts)
    files = {
        path: PurePosixPath(*path.parts[strip:]) if path in unit else path for path in sorted(found)
    }
    runnable = chosen / "__main__.py" in found or _is_program(root / chosen)
    return CopyPlan(chosen, files, _requirements(root, foreign), runnable)


def _locate(root: Path, template: str) -> PurePosixPath:
    name = Path(template)
    if name.is_absolute() and name.is_relative_to(root):
        name = name.relative_to(root)
    path = PurePosixPath(name.as_posix())
    if not (root / path).exists() and "/" not in template:
        path = module_file(root, tuple(template.split("."))) or path
    if path.name in {"__init__.py", "__main__.py"}:
        path = path.parent
    full = root / path
    usable = (full.suffix == ".py" and full.is_file()) or (full / "__init__.py").is_file()
    if ".." in path.parts or len(path.parts) < 2 or path.parts[0] not in ROOMS or not usable:
        raise CopyError(f"{template} is no template of this checkout")
    return path


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, or one ``from`` statement, with its name made absolute.

    Args:
        node: The statement, or the call of `find_spec`.
        module: The parts of the module's name.
        names: What a ``from`` statement takes from it.
        use: What the import is for.
    """

    node: ast.Import | ast.ImportFrom | ast.Call
    module: tuple[str, ...]
    names: tuple[ast.alias, ...]
    use: Use

    @property
    def ours(self) -> bool:
        """Whether the module is of this checkout."""
        return self.module[0] in ROOMS

    @property
    def package(self) -> str | None:
        """The third-party package that is imported, or None if it is none."""
        top = self.module[0]
        return None if self.ours or top in sys.stdlib_module_names else top

    def modules(self, root: Path) -> list[tuple[str, ...]]:
        """The modules of this checkout that are loaded: a taken name may be a module itself."""
        if not self.ours:
            return []
        below = [(*self.module, alias.name) for alias in self.names]
        loaded = [module for module in below if module_file(root, module)]
        if len(loaded) == len(below) and below:
            return loaded
        file = module_file(root, self.module)
        if below and file and file.name == "__init__.py" and not _has_code(root / file):
            missing = next(module for module in below if module not in loaded)
            raise CopyError(f"there is no module {'.'.join(missing)} in this checkout")
        return [*loaded, self.module]


def imports_of(root: Path, path: PurePosixPath) -> Iterator[Import]:
    """Every import of a file, also those inside functions and for the type checker only.

    Raises:
        CopyError: The file imports a part of this checkout that is not made to be copied.
    """
    tree = ast.parse((root / path).read_text("utf-8"), str(path))
    guarded = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for item in _imports_by(node, path, Use.TYPES if node in guarded else Use.NEEDED):
            if item.module[0] in {"kit", "tests", "benchmarks"}:
                raise CopyError(f"{path} imports {item.module[0]}, which is not made to be copied")
            yield item


def _imports_by(node: ast.AST, path: PurePosixPath, use: Use) -> Iterator[Import]:
    match node:
        case ast.Import():
            for alias in node.names:
                yield Import(node, tuple(alias.name.split(".")), (), use)
        case ast.ImportFrom():
            base = path.parts[: len(path.parts) - node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield Import(node, module, tuple(node.names), use)
        case ast.Call(args=[ast.Constant(value=str(name))]) if ast.unparse(node.func).endswith(
            "find_spec"
        ):
            yield Import(node, tuple(name.split(".")), (), Use.LOOKED_FOR)


def module_file(root: Path, module: tuple[str, ...]) -> PurePosixPath | None:
    """The file of a module of this checkout, or None if there is no such module."""
    path = PurePosixPath(*module)
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (root / candidate).is_file():
            return candidate
    return None


def _unit(root: Path, module: tuple[str, ...]) -> list[PurePosixPath]:
    """The files that come with a module: its own, and those of the engine which it is part of."""
    files: list[PurePosixPath] = []
    for depth in range(1, len(module) + 1):
        file = module_file(root, module[:depth])
        if file is None:
            raise CopyError(f"there is no module {'.'.join(module)} in this checkout")
        if file.name != "__init__.py":
            files.append(file)
        elif depth > 1 and _is_engine(root / file.parent):
            files += _files_below(root, file.parent)
        elif _has_code(root / file):
            files.append(file)
    return files


def _is_engine(folder: Path) -> bool:
    return (folder / "__main__.py").exists() or _has_code(folder / "__init__.py")


def _has_code(init: Path) -> bool:
    """Whether there is more to a file than its docstring."""
    body = ast.parse(init.read_text("utf-8")).body
    return any(not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) for s in body)


def _files_below(root: Path, folder: PurePosixPath) -> list[PurePosixPath]:
    made = {"__pycache__", "node_modules"}
    return [
        PurePosixPath(path.relative_to(root).as_posix())
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and not made & set(path.parts)
    ]


def _is_program(path: Path) -> bool:
    return path.is_file() and '\nif __name__ == "__main__":' in path.read_text("utf-8")


def _requirements(root: Path, foreign: dict[str, Use]) -> tuple[Requirement, ...]:
    """The distributions behind import names, in the versions of the requirement files."""
    pins: dict[str, str] = {}
    for name in ("test.txt", "run.txt"):
        file = root / "requirements" / name
        text = file.read_text("utf-8") if file.exists() else ""
        found = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", text, re.MULTILINE)
        pins.update({pin.replace("_", "-").lower(): version for pin, version in found})
    names = {top: {"paho": "paho-mqtt"}.get(top, top.replace("_", "-")) for top in foreign}
    return tuple(
        Requirement(names[top], pins.get(names[top].lower()), use)
        for top, use in sorted(foreign.items())
    )


def dotted(path: PurePosixPath) -> str:
    """The module name of a file, from whichever folder its path starts."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__").removesuffix("__init__")
