"""Every file's imports are read and held to the house: only down the list, never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "records": set[str](),
    "wire": set(),
    "producers": {"records"},
    "consumers": {"records"},
    "iot": {"records", "producers"},
    "infra": {"records"},
    "kit": {"records", "wire", "producers", "consumers", "iot", "infra"},
}
ROOMS = set(MAY_IMPORT)


def files_of(room: str) -> list[Path]:
    return [p for p in sorted((ROOT / room).rglob("*.py")) if "node_modules" not in p.parts]


def imported_modules(path: Path) -> set[str]:
    """Every module a file imports, as written out in full; relative imports are resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts
    package = package[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    files = files_of(room)
    assert files, f"{room}/ has no Python files"
    for path in files:
        rooms = {name.split(".")[0] for name in imported_modules(path)} & ROOMS
        strangers = rooms - MAY_IMPORT[room] - {room}
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


def test_no_module_imports_itself_by_a_detour() -> None:
    modules = {module_name(path): path for room in ROOMS for path in files_of(room)}
    graph = {
        name: {found for found in imported_modules(path) if found in modules and found != name}
        for name, path in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_records_has_no_threads_and_no_io() -> None:
    forbidden = {"threading", "asyncio", "socket", "subprocess", "boto3", "requests", "http"}
    for path in files_of("records"):
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert not roots & forbidden, f"{path.relative_to(ROOT)} imports {roots & forbidden}"


def test_the_package_faces_are_docstrings_so_that_a_copy_takes_only_what_it_uses() -> None:
    for room in ROOMS - {"kit"}:
        tree = ast.parse((ROOT / room / "__init__.py").read_text())
        assert all(isinstance(node, ast.Expr) for node in tree.body), room


def test_every_room_is_marked_as_typed() -> None:
    for room in ROOMS:
        assert (ROOT / room / "py.typed").exists(), room
