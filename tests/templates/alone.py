"""Running a copied template where nothing of this checkout can be imported."""

import os
import sysconfig
from pathlib import Path


def site_packages() -> Path:
    """Where this environment's third-party packages are."""
    return Path(sysconfig.get_paths()["purelib"])


def alone(src: Path) -> dict[str, str]:
    """An environment for `python -S`: a project's source and third-party packages, no more.

    The checkout may be installed into the environment by a .pth file. -S leaves those unread, and
    PYTHONPATH adds the packages' folder without them.
    """
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": f"{src}{os.pathsep}{site_packages()}",
    }
