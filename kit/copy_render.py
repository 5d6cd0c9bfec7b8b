"""How `kit copy` writes a file anew: imports made relative, module names those of the target."""

import ast
import re
from pathlib import Path, PurePosixPath

from kit.copy_plan import CopyError, CopyPlan, Import, dotted, imports_of, module_file

HEADER = "# Copied from "


def render(root: Path, plan: CopyPlan, source: PurePosixPath, *, package: str, origin: str) -> str:
    """One Python file as it is written to the target.

    Args:
        root: The checkout.
        plan: The plan which the file is part of.
        source: The file, from the checkout's root.
        package: The dotted name that the target has for its project, as in ``python -m package.x``.
        origin: The version of the checkout, for the header.

    Raises:
        CopyError: An import is written in a way that has no relative form.
    """
    text = _relative_imports(root, plan, source)
    spoken = _spoken_of(root, plan, source)
    for here, there in sorted(plan.modules().items(), reverse=True):
        if here not in spoken:
            continue
        name = f"{package}.{there.removesuffix('.__main__')}"
        quoted = re.escape(here.removesuffix(".__main__"))
        text = re.sub(rf"""(-m\s+){quoted}(?![\w.]*\w)""", rf"\g<1>{name}", text)
        text = re.sub(rf"""(["']){quoted}\1""", rf"\g<1>{name}\g<1>", text)
        # A file with relative imports is run by its module name, not by its path.
        path = re.escape(here.replace(".", "/"))
        text = re.sub(rf"\bpython(3?) {path}\.py\b", rf"python\g<1> -m {name}", text)
    header = f"{HEADER}{source} of {origin} by `kit copy`. MIT-0.\n"
    if text.startswith("#!"):
        shebang, _, rest = text.partition("\n")
        return f"{shebang}\n{header}{rest}"
    return header + text


def _spoken_of(root: Path, plan: CopyPlan, source: PurePosixPath) -> set[str]:
    """The modules whose names are changed in a file's strings, comments and docstrings.

    In the template's own files these are all that come along. A file that came as a dependency must
    read the same whichever template it came with: there, it is what it imports and belongs to.
    """
    if source.is_relative_to(plan.template):
        return set(plan.modules())
    imported = {
        ".".join(module) for item in imports_of(root, source) for module in item.modules(root)
    }
    engine = f"{dotted(source.parent)}." if len(source.parent.parts) > 1 else None
    return {
        here
        for here in plan.modules()
        if here in imported or here == dotted(source) or (engine and f"{here}.".startswith(engine))
    }


def _relative_imports(root: Path, plan: CopyPlan, source: PurePosixPath) -> str:
    """A file's text, with each import from this checkout made relative to its new place."""
    package = plan.files[source].parent.parts
    data = (root / source).read_bytes()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for item in sorted(imports_of(root, source), key=lambda item: item.node.lineno, reverse=True):
        node = item.node
        if not item.ours or isinstance(node, ast.Call):
            continue
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        new = _relative(root, plan, item, package, data[start:end].decode())
        new = new.replace("\n", "\n" + " " * node.col_offset) if "\nfrom" in new else new
        data = data[:start] + new.encode() + data[end:]
    return data.decode()


def _relative(
    root: Path, plan: CopyPlan, item: Import, package: tuple[str, ...], statement: str
) -> str:
    """One import statement in its relative form; several, where the names part company."""
    if isinstance(item.node, ast.Import):
        alias = item.node.names[0]
        if len(item.node.names) > 1 or not alias.asname or len(item.module) < 2:
            raise CopyError(f"`{statement}` has no relative form; write `from … import …`")
        *parent, last = _moved(plan, item.module)
        return f"from {_dots(package, tuple(parent))} import {last} as {alias.asname}"
    groups: dict[str, list[ast.alias]] = {}
    for name in item.names:
        below = (*item.module, name.name)
        parent_of = _moved(plan, below)[:-1] if module_file(root, below) else None
        where = parent_of if parent_of is not None else _moved(plan, item.module)
        groups.setdefault(_dots(package, where), []).append(name)
    if len(groups) == 1:
        return re.sub(r"\Afrom\s+[.\w]+\s+import", f"from {next(iter(groups))} import", statement)
    return "\n".join(
        f"from {where} import {', '.join(map(ast.unparse, names))}"
        for where, names in groups.items()
    )


def _moved(plan: CopyPlan, module: tuple[str, ...]) -> tuple[str, ...]:
    """A module's place in the target: the template's own parts lie at its top."""
    own = plan.template.with_suffix("").parts
    return module[len(own) - 1 :] if module[: len(own)] == own else module


def _dots(package: tuple[str, ...], module: tuple[str, ...]) -> str:
    """How a file of a package names a module relatively."""
    common = 0
    while common < min(len(package), len(module)) and package[common] == module[common]:
        common += 1
    return "." * (len(package) - common + 1) + ".".join(module[common:])
