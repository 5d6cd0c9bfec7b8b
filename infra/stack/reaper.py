"""Remove the containers of a stack whose owner has died.

It runs as a guarded child of that owner (`infra.processes`) and does nothing until it gets SIGTERM,
which the guard sends when the owner ends, in whatever way. testcontainers' own reaper, Ryuk, is a
container that must be pulled and be given the engine's socket, which not every network and
engine allows.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence

import docker  # type: ignore[import-untyped] # has no types


def main(argv: Sequence[str] | None = None) -> int:
    """Wait for SIGTERM and remove what carries the label."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack.reaper", description=__doc__)
    parser.add_argument("--label", required=True, metavar="KEY=VALUE", help="whose containers")
    arguments = parser.parse_args(argv)
    # Blocked rather than handled, so that none is lost between here and `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    client = docker.from_env()
    try:
        # Ryuk, where it runs, removes the same ones: what has gone meanwhile is as it should be.
        for container in client.containers.list(
            all=True, filters={"label": arguments.label}, ignore_removed=True
        ):
            print(f"removing {container.id}", flush=True)
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)
    finally:
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
