"""PutRecords and PutRecord: each record is charged to its shard.

Those over quota fail; the others are written, in their order, by one call to the upstream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.fault import Action
from infra.proxy.messages import (
    Call,
    Refusal,
    answer_to,
    decode,
    refusal_to,
    with_body,
)
from infra.proxy.quotas.kinesis import THROTTLED, throttled_message
from infra.proxy.quotas.requests import measure
from infra.proxy.streams import StreamView, stream_of
from infra.proxy.strikes import Strikes
from infra.proxy.upstream import UpstreamError
from records.partition import hash_key

Failure = dict[str, str]
"""An entry of PutRecords' answer that failed: `ErrorCode` and `ErrorMessage`."""


async def put_records(call: Call, desk: Desk, strikes: Strikes | None) -> Answer:
    """Answer PutRecords.

    Args:
        call: The call.
        desk: What to work with.
        strikes: May have one that makes some of its entries fail.

    Raises:
        MalformedBodyError: The body is not what AWS takes.
        UpstreamError: There was no answer, or one that cannot be understood.
    """
    put = await _prepared(call, desk)
    if isinstance(put, Answer):
        return put
    struck = put.struck(strikes)
    failures = struck | put.over_quota(struck)
    if not failures:
        return put.checked(await desk.forward(call), failures)
    records = call.parameters["Records"]
    kept = [record for n, record in enumerate(records) if n not in failures]
    if kept:
        answer = await desk.forward(call, {**call.parameters, "Records": kept})
        answer = put.checked(answer, failures)
        if answer.status == 200:
            put.count_struck(strikes, struck)
        return answer
    put.count_struck(strikes, struck)
    if strikes:  # nothing was written: there is no answer worth losing, and none was sent twice
        strikes.give_back(Action.LOSE, Action.RESET_AFTER, Action.SEND_TWICE)
    every = [failures[n] for n in range(len(records))]
    return answer_to(call, {"FailedRecordCount": len(every), "Records": every})


async def put_record(call: Call, desk: Desk) -> Answer:
    """Answer PutRecord.

    Raises:
        MalformedBodyError: The body is not what AWS takes.
        UpstreamError: There was no answer, or one that cannot be understood.
    """
    put = await _prepared(call, desk)
    if isinstance(put, Answer):
        return put
    if failure := put.over_quota({}).get(0):
        return refusal_to(call, Refusal(failure["ErrorCode"], failure["ErrorMessage"]))
    answer = await desk.forward(call)
    if answer.status == 200:
        put.notice_reshard([decode(answer.body, cbor=call.cbor)])
    return answer


async def _prepared(call: Call, desk: Desk) -> "_Put | Answer":
    """Return what there is to put, or the answer if there is nothing to treat."""
    if desk.quotas is None and not desk.faults.loaded:
        return await desk.forward(call)
    name = stream_of(call.parameters)
    view = None if name is None else await desk.streams.view(call, name)
    most = None if view is None else view.max_record_bytes
    sizes = measure(call.operation, call.parameters, most)
    if isinstance(sizes, Refusal):
        # The limits are the quotas' business too; with those off the upstream has its own.
        return await desk.forward(call) if desk.quotas is None else refusal_to(call, sizes)
    if name is None or view is None:
        return await desk.forward(call)  # the upstream has its own words for a missing stream
    single = call.operation == "PutRecord"
    records = [call.parameters] if single else call.parameters["Records"]
    return _Put(call, desk, name, view, sizes, _shards(records, view))


def _shards(records: Sequence[Mapping[str, Any]], view: StreamView) -> list[str | None]:
    """Return the shard that each record goes to; None where the list of shards has a gap."""
    shard_for = view.shards.shard_for
    shards: list[str | None] = []
    for record in records:
        explicit = record.get("ExplicitHashKey")
        place = hash_key(record["PartitionKey"]) if explicit is None else int(explicit)
        try:
            shards.append(shard_for(place).shard_id)
        except LookupError:
            shards.append(None)
    return shards


@dataclass(frozen=True, slots=True)
class _Put:
    """The records of one call, each with its size and the shard that it goes to."""

    call: Call
    desk: Desk
    name: str
    view: StreamView
    sizes: list[int]
    shards: list[str | None]

    def struck(self, strikes: Strikes | None) -> dict[int, Failure]:
        """Return the records that a fault makes fail."""
        strike = strikes and strikes.get(Action.PARTIAL)
        if not strikes or not strike:
            return {}
        chosen = self.desk.faults.fails(strike, len(self.sizes))
        return {n: {"ErrorCode": strike.code, "ErrorMessage": strike.reason} for n in chosen}

    def count_struck(self, strikes: Strikes | None, struck: Mapping[int, Failure]) -> None:
        """Count the fault, now that the client will see the records that it made fail."""
        if strikes and struck and (strike := strikes.get(Action.PARTIAL)):
            strikes.happened(strike, affected=len(struck))

    def over_quota(self, failed: Mapping[int, Failure]) -> dict[int, Failure]:
        """Charge every record that has not failed yet; return those their shards do not take."""
        desk, failures = self.desk, {}
        charged = [(n, s) for n, s in enumerate(self.shards) if s is not None and n not in failed]
        if desk.faults.active:
            for n, shard in charged:
                if reason := desk.faults.throttled(self.call.operation, self.name, shard):
                    failures[n] = self._throttled(shard, f" ({reason})")
            charged = [(n, shard) for n, shard in charged if n not in failures]
        if desk.quotas is not None:
            admitted = desk.quotas.put_all(
                (self.call.identity, self.name),
                [(shard, self.sizes[n]) for n, shard in charged],
                max_record_bytes=self.view.max_record_bytes,
            )
            for (n, shard), taken in zip(charged, admitted, strict=True):
                if not taken:
                    failures[n] = self._throttled(shard, "")
        return failures

    def _throttled(self, shard: str, note: str) -> Failure:
        return {"ErrorCode": THROTTLED, "ErrorMessage": throttled_message(self.name, shard) + note}

    def checked(self, answer: Answer, failures: Mapping[int, Failure]) -> Answer:
        """Put the upstream's entries and the failures into the places of their records."""
        if answer.status != 200:
            return answer
        value = decode(answer.body, cbor=self.call.cbor)
        written = value.get("Records")
        if not isinstance(written, list) or len(written) != len(self.sizes) - len(failures):
            text = "the upstream's answer to PutRecords has another number of records"
            raise UpstreamError("ServiceUnavailable", text, 502)
        given = iter(written)
        entries = [failures[n] if n in failures else next(given) for n in range(len(self.sizes))]
        self.notice_reshard(entries)
        if not failures:
            return answer
        # The upstream's own count is not to be trusted: LocalStack's counts the call.
        failed = sum(1 for entry in entries if entry.get("ErrorCode"))
        merged = {**value, "FailedRecordCount": failed, "Records": entries}
        return with_body(answer, merged, cbor=self.call.cbor)

    def notice_reshard(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Ask for the shards anew if a record landed elsewhere: not all reshards pass here."""
        for shard, entry in zip(self.shards, entries, strict=True):
            landed = entry.get("ShardId")
            if landed is not None and landed != shard:
                self.desk.streams.forget(self.call.identity, self.name)
                return
