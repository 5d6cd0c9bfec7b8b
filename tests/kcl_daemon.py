"""The daemon's side of one KCL child: starts it, asks, hears."""

import base64
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEADLINE = 30.0


class Child:
    """Starts the child and talks to it like the MultiLangDaemon."""

    def __init__(self, work_dir: Path, sink: str, *arguments: str) -> None:
        self.work_dir = work_dir
        command = [sys.executable, "-P", "-m", "consumers.kcl.child", "--sink", sink]
        command += ["--work-dir", str(work_dir), "--retention", "86400", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{work_dir}"},
        )

    def ask(self, action: str, **body: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"action": action, **body}).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Return the next line; every line must be one of the protocol's."""
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE)
        assert ready, "the child says nothing"
        line = self.process.stdout.readline()
        assert line, f"the child is gone: {self.process.wait(5)}"
        message: dict[str, Any] = json.loads(line)
        return message

    def begin(self) -> None:
        self.ask(
            "initialize", shardId="shard-1", sequenceNumber="TRIM_HORIZON", subSequenceNumber=0
        )
        assert self.hear() == {"action": "status", "responseFor": "initialize"}

    def records(self, *texts: str, start: int = 1) -> None:
        raw = [
            {
                "action": "record",
                "data": base64.b64encode(text.encode()).decode(),
                "partitionKey": "k",
                "sequenceNumber": str(number),
                "subSequenceNumber": 0,
                "approximateArrivalTimestamp": 1,
            }
            for number, text in enumerate(texts, start)
        ]
        self.ask("processRecords", records=raw, millisBehindLatest=0)

    def confirm(self, sequence_number: str | None, request: str) -> None:
        """Take the checkpoint of a request, answer it, and take the status."""
        asked = self.hear()
        assert (asked["action"], asked["sequenceNumber"]) == ("checkpoint", sequence_number)
        self.ask("checkpoint", sequenceNumber=sequence_number, subSequenceNumber=0, error=None)
        assert self.hear() == {"action": "status", "responseFor": request}

    def hang_up(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def end(self) -> int:
        return self.process.wait(DEADLINE)

    def rest(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.read()

    def log(self) -> str:
        return (self.work_dir / "logs" / "shard-1.log").read_text()
