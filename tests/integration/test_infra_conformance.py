"""The conformance run against servers that lie, and against the engines of the stack."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from infra.conformance.check import Check
from infra.conformance.ground import Ground
from infra.conformance.run import Outcome, Verdict, all_checks, matching, run_check, run_checks
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Answer = tuple[int, dict[str, Any]]
Script = Callable[[str], Answer]

UNKNOWN: Answer = (400, {"__type": "UnknownOperationException"})
BROKEN: Answer = (500, {"__type": "InternalFailure", "message": "out of order"})
THROTTLED: Answer = (400, {"__type": "LimitExceededException", "message": "Rate exceeded"})


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """Serve what the script answers to each operation."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
            status, answer = script(operation)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that has gone is none of our business."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def conformance(endpoint: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "infra.conformance", *arguments],
        env=os.environ | {"AWS_ENDPOINT_URL": endpoint},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_to_the_end(endpoint: str, *arguments: str) -> tuple[int, str, str]:
    with conformance(endpoint, *arguments) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def outcomes_against(script: Script, checks: list[Check]) -> list[Outcome]:
    with pytest.MonkeyPatch.context() as patch, scripted(script) as url:
        patch.setenv("AWS_ENDPOINT_URL", url)
        return run_checks(checks, Ground(), jobs=8, seconds=5)


def leftovers(kinesis: "KinesisClient") -> list[str]:
    pages = kinesis.get_paginator("list_streams").paginate()
    names = [name for page in pages for name in page["StreamNames"]]
    return [name for name in names if name.startswith("conformance")]


AREAS = ["streams", "routing", "reading"]
"""Of whose streams some are shared, some deleted by the checks and some refused."""


def test_no_check_passes_where_everything_succeeds_and_nothing_happens() -> None:
    outcomes = outcomes_against(lambda _: (200, {}), all_checks())
    assert [each.check.name for each in outcomes if each.verdict is not Verdict.FAILED] == []


def test_no_check_passes_where_everything_is_broken() -> None:
    outcomes = outcomes_against(lambda _: BROKEN, all_checks())
    assert [each.check.name for each in outcomes if each.verdict is not Verdict.FAILED] == []


def test_a_lie_is_reported_with_what_was_expected_and_found() -> None:
    with scripted(lambda _: (200, {})) as url:
        code, out, err = run_to_the_end(url, "--only", "create-stream-name-129")
    assert code == 1, err
    assert out.startswith("failed ")
    assert "expected ValidationException or InvalidArgumentException" in out
    assert "found    success 200" in out
    assert out.endswith("0 passed, 1 failed, 0 unsupported, 1 checks\n")


def test_an_endpoint_that_knows_nothing_fails_nothing() -> None:
    with scripted(lambda _: UNKNOWN) as url:
        code, out, err = run_to_the_end(url, "--only", "routing", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["unsupported"] == found["total"] == len(found["unsupported_checks"]) > 5
    assert (found["passed"], found["failed"]) == (0, 0)


def test_a_rate_limit_is_waited_out_except_where_it_is_the_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def script(operation: str) -> Answer:
        asked.append(operation)
        return (200, {"StreamNames": [], "HasMoreStreams": False}) if len(asked) > 2 else THROTTLED

    with scripted(script) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        ground = Ground()
        with pytest.raises(ClientError, match="Rate exceeded"):
            ground.kinesis_throttled.list_streams()
        assert len(asked) == 1
        assert ground.kinesis.list_streams()["StreamNames"] == []
        assert len(asked) == 3


def test_a_limit_that_no_waiting_mends_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def script(operation: str) -> Answer:
        asked.append(operation)
        return 400, {"__type": "LimitExceededException", "message": "too many shards"}

    with scripted(script) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(ClientError, match="too many shards"):
            Ground().kinesis.create_stream(StreamName="x", ShardCount=1)
    assert asked == ["CreateStream"]


def test_a_check_that_waits_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(operation: str) -> Answer:
        if operation != "DescribeStreamSummary":
            return 200, {}
        return 200, {"StreamDescriptionSummary": {"StreamStatus": "CREATING"}}

    (check,) = matching(all_checks(), ["stream-by-arn"])
    with scripted(script) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        outcome = run_check(check, Ground(), seconds=1)
    assert outcome.verdict is Verdict.FAILED
    assert "used up its time" in outcome.found or "ACTIVE" in outcome.expected


def test_what_a_check_made_is_deleted_and_what_is_shared_stays(
    local_kinesis: str, monkeypatch: pytest.MonkeyPatch, kinesis: "KinesisClient"
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", local_kinesis)
    made: dict[str, str] = {}

    def body(ground: Ground) -> None:
        made["own"] = ground.stream()
        made["shared"] = ground.shared_stream()

    ground = Ground()
    check = Check(name="x", what="x.", source="x", area="x", run=body)
    assert run_check(check, ground).verdict is Verdict.PASSED
    eventually(lambda: made["own"] not in leftovers(kinesis))
    assert made["shared"] in leftovers(kinesis)
    assert ground.clean_up() == []
    eventually(lambda: made["shared"] not in leftovers(kinesis))


def test_a_run_against_the_engine_and_nothing_is_left(
    local_kinesis: str, kinesis: "KinesisClient"
) -> None:
    only = [part for area in AREAS for part in ("--only", area)]
    code, out, err = run_to_the_end(local_kinesis, "--json", *only)
    found = json.loads(out)
    assert err == ""
    assert code == (1 if found["failed"] else 0)
    assert found["total"] == len(matching(all_checks(), AREAS)) >= 50
    assert found["passed"] + found["failed"] + found["unsupported"] == found["total"]
    assert len(found["failures"]) == found["failed"]
    # What the toolkit's own tests rely on an engine for.
    assert found["passed"] >= 40, found["failures"]
    eventually(lambda: leftovers(kinesis) == [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_cleans_up(
    local_kinesis: str, kinesis: "KinesisClient", number: signal.Signals
) -> None:
    # Its streams are there for some seconds, between the points in time that it notes.
    with conformance(local_kinesis, "--only", "list-at-timestamp") as process:
        try:
            eventually(lambda: leftovers(kinesis))
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert (out, err) == ("", f"stopped by {number.name}\n")
    eventually(lambda: leftovers(kinesis) == [])
