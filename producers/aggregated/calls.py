"""The calls that the producer makes, each with its answer as a value."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from producers.aggregated.failures import NO_SUCH_STREAM
from producers.aggregated.values import Listed
from producers.put_records import Failure, Record, Stored, failure_of, put_once
from records.limits import KIB
from records.partition import ShardMap
from records.stream_ref import stream_argument

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

log = logging.getLogger(__name__)

# An account may ask 20 times a second; where nobody answers, records need not wait for ever.
_MOST_UNDESCRIBED: Final = 5
# A million shards, more than any account has.
_MAX_PAGES: Final = 1_000


class Calls:
    """A client and the stream it is used for. Safe between threads, as the client is.

    Args:
        client: A Kinesis client.
        stream: The stream's name or ARN.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, client: "KinesisClient", stream: str) -> None:
        self._client = client
        self._stream = stream
        self._argument = stream_argument(stream)
        self._describes = True
        self._described_as: Listed | None = None
        self._undescribed = 0
        attempts = _attempts(client)
        if attempts != 1:
            log.warning(
                "the client of %s at %s has SDK retries switched on (up to %s attempts): a request"
                " is sent again behind the producer's back, which makes duplicates that it does not"
                ' count; pass Config(retries={"total_max_attempts": 1})',
                stream,
                client.meta.endpoint_url,
                attempts,
            )

    def put(self, records: tuple[Record, ...]) -> list[Stored | Failure] | Failure:
        """Send one PutRecords."""
        reply = put_once(self._client, self._stream, records)
        if isinstance(reply, Failure):
            log.info("PutRecords to %s: %s: %s", self._stream, reply.code, reply.message)
        return reply

    def list(self) -> Listed | Failure:
        """Ask for the stream's shards and for what its records may count."""
        try:
            shards = ShardMap.from_list_shards(self._pages())
        except Exception as error:  # noqa: BLE001 - an answer nobody can read is no answer
            failure = failure_of(error)
        else:
            log.info("stream %s has %d open shards", self._stream, len(shards.open_shards))
            return self._described(shards)
        if failure.code == NO_SUCH_STREAM:
            self._described_as = None
        log.info("ListShards of %s: %s: %s", self._stream, failure.code, failure.message)
        return failure

    def _described(self, shards: ShardMap) -> Listed | Failure:
        """Add what DescribeStreamSummary says, or said before; if it never did, the defaults."""
        failure = self._describe() if self._describes else None
        if failure is not None and failure.retriable and self._described_as is None:
            self._undescribed += 1
            if self._undescribed < _MOST_UNDESCRIBED:
                return failure
        return (self._described_as or Listed(shards))._replace(shards=shards)

    def _describe(self) -> Failure | None:
        try:
            answer = self._client.describe_stream_summary(**self._argument)
            summary: Any = answer["StreamDescriptionSummary"]
            kib = summary.get("MaxRecordSizeInKiB")
            auto = summary.get("RecordDistributionStrategy") == "AUTO"
            self._described_as = Listed(ShardMap(()), auto, int(kib) * KIB if kib else None)
        except Exception as error:  # noqa: BLE001 - it is not worth a record
            failure = failure_of(error)
        else:
            return None
        if failure.code == NO_SUCH_STREAM:  # It is being made anew, perhaps as another.
            self._described_as = None
            failure = replace(failure, retriable=True)
        self._describes = failure.retriable  # One that will not pass is not asked for again.
        log.warning(
            "DescribeStreamSummary of %s: %s: %s; unless it has answered before, its records are"
            " taken to be of 1 MiB at most and their keys to say where they go",
            self._stream,
            failure.code,
            failure.message,
        )
        return failure

    def _pages(self) -> Iterator[Any]:
        # Not boto3's paginator: it repeats the stream's name beside the token, which AWS refuses.
        page = self._client.list_shards(**self._argument)
        for _ in range(_MAX_PAGES):
            yield from page["Shards"]
            if not (token := page.get("NextToken")):
                return
            page = self._client.list_shards(NextToken=token)
        raise LookupError(f"ListShards does not come to an end in {_MAX_PAGES} pages")


def _attempts(client: "KinesisClient") -> int | str:
    """Return how often the client itself would send one request."""
    own = getattr(client, "total_max_attempts", None)
    if type(own) is int:
        return own  # `wire`'s, whatever the config says for what the producer does not call.
    config = getattr(getattr(client, "meta", None), "config", None)
    if config is None:
        return 1  # Not one of botocore's.
    retries = getattr(config, "retries", None) or {}
    if "total_max_attempts" in retries:
        return int(retries["total_max_attempts"])
    if "max_attempts" in retries:
        return int(retries["max_attempts"]) + 1
    return "the default number of"
