"""The process that the MultiLangDaemon starts for one shard: `python -m consumers.kcl.child`.

It is not run by hand. Standard input and output belong to the daemon; what anything else prints
goes to `<work-dir>/logs/<shard id>.log`. It does not end on SIGINT, SIGTERM and their like, which
a terminal or an init system sends to the whole process group: the daemon gets them too and asks its
children to stop. It ends when the daemon does, also in the middle of a batch, and waits for no
thread that a sink has left running.

Exit status: 0 when the daemon closed the pipe between two requests, 1 after an error that stayed,
70 when the daemon died while a batch was being applied or the sink did not close in 5 s.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from consumers.kcl.channel import EXIT_ORPHANED, Channel, private_copy
from consumers.kcl.events import Journal
from consumers.kcl.processor import Processor, Retry
from consumers.sinks.base import Sink
from consumers.sinks.open import open_sink

LOG_FOLDER: Final = "logs"
MAX_LOG_BYTES: Final = 16 * 1024 * 1024
"""A shard's log is put aside at this size, and one older one is kept."""

CLOSE_S: Final = 5.0
"""How long a sink may take to close. The daemon, if it is there, waits for the child's end."""

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the child of one shard until the daemon closes the pipe."""
    arguments = _parser().parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        # Handled, not ignored: what is ignored stays so in every program that a handler starts.
        signal.signal(number, lambda _number, _frame: None)
    channel = Channel.take_over()
    last_words = private_copy(2)  # as the daemon gave it: it ends on the worker's standard error
    log = _ShardLog(arguments.work_dir / LOG_FOLDER)

    def begin(shard_id: str) -> None:
        log.open(shard_id)
        os.write(last_words, f"ready: {shard_id} is being read\n".encode())

    journal = Journal(arguments.work_dir)
    processor: Processor | None = None
    try:
        sink = open_sink(arguments.sink, retention=arguments.retention, horizon=arguments.horizon)
        processor = Processor(
            line=channel,
            sink=sink,
            journal=journal,
            worker_id=arguments.worker_id,
            retry=Retry(attempts=arguments.attempts),
            on_initialize=begin,
            on_batch=log.keep_bounded,
        )
        processor.serve()
        _close(sink)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the end of this worker
        reason = f"{type(error).__name__}: {error}"
        _log.critical("this worker stops", exc_info=error)
        shard_id = processor.shard_id if processor else ""
        with contextlib.suppress(OSError):  # a full disk may be the reason
            journal.event("failed", worker_id=arguments.worker_id, shard_id=shard_id, error=reason)
        with contextlib.suppress(OSError):  # or the daemon, gone away
            os.write(last_words, f"stopped: {reason}\n".encode())
        return 1
    return 0


def _close(sink: Sink) -> None:
    limit = threading.Timer(CLOSE_S, os._exit, [EXIT_ORPHANED])
    limit.daemon = True
    limit.start()
    sink.close()
    limit.cancel()


def _leave(status: int) -> NoReturn:
    # The daemon learns of an error by the end of this process, which a thread or an exit handler
    # of the sink's could put off for ever.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


class _ShardLog:
    """Leads file descriptors 1 and 2, and so all that prints, to the log of the shard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None

    def open(self, shard_id: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f"{shard_id}.log"
        self._redirect(self._path)
        logging.basicConfig(
            level=logging.INFO,
            format=f"%(asctime)s {os.getpid()} %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )

    def keep_bounded(self) -> None:
        if self._path and os.fstat(2).st_size > MAX_LOG_BYTES:
            self._path.replace(self._path.with_suffix(".log.1"))
            self._redirect(self._path)

    @staticmethod
    def _redirect(path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m consumers.kcl.child", description=__doc__)
    parser.add_argument("--sink", required=True, help="see python -m consumers.kcl --help")
    parser.add_argument("--work-dir", required=True, type=Path)
    parser.add_argument("--worker-id", default="")
    parser.add_argument("--retention", required=True, type=float, metavar="SECONDS")
    parser.add_argument("--horizon", type=float, default=None, metavar="SECONDS")
    parser.add_argument("--attempts", type=int, default=Retry().attempts)
    return parser


if __name__ == "__main__":
    _leave(main())
