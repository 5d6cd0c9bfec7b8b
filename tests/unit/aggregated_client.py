"""A Kinesis client in memory, for the producer's own tests: one shard, and answers on demand."""

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from producers.aggregated import AggregatingProducer

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


class Client:
    """Answers once `go_on` is set, and stores what is put; or raises what it was given."""

    def __init__(self, error: Exception | None = None, *, held: bool = False) -> None:
        self.go_on = threading.Event()
        self.requests = 0
        self._error = error
        self._numbers = itertools.count(1)
        if not held:
            self.go_on.set()

    def list_shards(self, **_: Any) -> dict[str, Any]:
        if self._error:
            raise self._error
        assert self.go_on.wait(60)
        covered = {"StartingHashKey": "0", "EndingHashKey": str(2**128 - 1)}
        shard = {"ShardId": "shard-0", "HashKeyRange": covered, "SequenceNumberRange": {}}
        return {"Shards": [shard]}

    def describe_stream_summary(self, **_: Any) -> dict[str, Any]:
        return {"StreamDescriptionSummary": {}}

    def put_records(self, *, Records: list[Any], **_: Any) -> dict[str, Any]:  # noqa: N803
        self.requests += 1
        assert self.go_on.wait(60)
        return {
            "Records": [
                {"ShardId": "shard-0", "SequenceNumber": str(next(self._numbers))} for _ in Records
            ]
        }


def producer_of(client: Client, **settings: Any) -> AggregatingProducer:
    known: KinesisClient = client  # type: ignore[assignment]
    return AggregatingProducer(known, "any", **settings)


@pytest.fixture
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no producer start a thread, so that only those who call it do something."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
