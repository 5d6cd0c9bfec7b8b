"""How effects lie in a DynamoDB table, as data: groups, keys and transactions, no I/O here.

Keys `pk` and `sk`, both strings:

==================  ==============  ========================================================
pk                  sk              what
==================  ==============  ========================================================
`key#<key>`         `<position>`    an effect; positions of a key count up from 1, 20 digits
`key#<key>`         `head`          the last position of the key
`seen#<record id>`  `seen`          remembers the ID until `expires_at`, the table's TTL
`refused#<shard>`   `refused`       how many duplicates of the shard were refused
==================  ==============  ========================================================

So a `Query` for `pk = key#<key>` returns a key's effects in the order they were applied in, and
the head last.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consumers.errors import SinkError
from consumers.sinks.base import Identified

MAX_TRANSACT_ITEMS: Final = 100
"""AWS: DynamoDB API Reference, TransactWriteItems: distinct items in one transaction."""

MAX_TRANSACT_BYTES: Final = 4_000_000
"""AWS: DynamoDB API Reference, TransactWriteItems: 4 MB in aggregate, taken as the smaller MB."""

MAX_ITEM_BYTES: Final = 400 * 1024
"""AWS: DynamoDB Developer Guide, Service quotas: names and values of one item."""

_ITEM_OVERHEAD: Final = 512
"""Bytes, more than the names and the small values of an effect take together."""

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """What the table says about a group.

    Args:
        writers: For each record ID that was seen, the token of the transaction that stored it.
        heads: For each partition key that has effects, its last position.
    """

    writers: Mapping[str, str]
    heads: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Split:
    """A group, in order, divided into first sightings and the rest."""

    fresh: tuple[Identified, ...]
    refused: tuple[Identified, ...]


def groups(items: Iterable[Identified]) -> Iterator[list[Identified]]:
    """Cut a batch into groups, each of which fits one transaction whatever is fresh in it.

    Raises:
        SinkError: A record does not fit a DynamoDB item; every group before it was yielded.
    """
    group: list[Identified] = []
    keys: set[str] = set()
    used, size = 1, 0  # one item counts the refused ones
    for item in items:
        key = item.record.partition_key
        item_bytes = len(item.payload) + len(key.encode()) + _ITEM_OVERHEAD
        if item_bytes > MAX_ITEM_BYTES:
            if group:
                yield group
            raise SinkError(
                f"record {item.record_id} of {len(item.payload)} bytes does not fit a DynamoDB"
                f" item of {MAX_ITEM_BYTES} bytes; keep the payload in S3 and its address here"
            )
        needed = 2 + (key not in keys)  # seen, effect, and the head of a new key
        if group and (used + needed > MAX_TRANSACT_ITEMS or size + item_bytes > MAX_TRANSACT_BYTES):
            yield group
            group, keys, used, size = [], set(), 1, 0
            needed = 3
        group.append(item)
        keys.add(key)
        used += needed
        size += item_bytes
    if group:
        yield group


def split(group: Sequence[Identified], known: Known, ours: Collection[str] = ()) -> Split:
    """Divide a group into records seen for the first time and duplicates.

    Args:
        group: In order; it may repeat an ID.
        known: What the table says.
        ours: Tokens of our own earlier transactions for this very group. What they stored was
            fresh, although it is seen now.
    """
    fresh: dict[str, Identified] = {}
    refused = []
    for item in group:
        writer = known.writers.get(item.record_id)
        if item.record_id not in fresh and (writer is None or writer in ours):
            fresh[item.record_id] = item
        else:
            refused.append(item)
    return Split(tuple(fresh.values()), tuple(refused))


def read_keys(group: Sequence[Identified]) -> list[Item]:
    """Return the keys of all that must be known about a group, at most 100."""
    places = [(f"seen#{item.record_id}", "seen") for item in group]
    places += [(f"key#{item.record.partition_key}", "head") for item in group]
    return [_place(pk, sk) for pk, sk in dict.fromkeys(places)]


def understand(items: Iterable[Mapping[str, Any]]) -> Known:
    """Read what was found under `read_keys`."""
    writers: dict[str, str] = {}
    heads: dict[str, int] = {}
    for item in items:
        name = item["pk"]["S"].partition("#")[2]
        if item["sk"]["S"] == "seen":
            writers[name] = item["writer"]["S"]
        else:
            heads[name] = int(item["position"]["N"])
    return Known(writers, heads)


def transaction(
    table: str, parts: Split, heads: Mapping[str, int], *, token: str, now: float, horizon: float
) -> list[Item]:
    """Build one transaction: it succeeds only if what was read still holds.

    No fresh ID may have been seen, no refused one forgotten, and no head moved in the meantime.

    A head needs no condition of its own: whoever moved it has put an effect at the next position,
    and no effect is put where one is.

    Args:
        table: Name of the table.
        parts: What to store and what to refuse.
        heads: The last position of each key that has effects.
        token: Names this transaction in the seen items.
        now: Seconds since the epoch.
        horizon: Seconds for which an ID is remembered.
    """
    expires = {"N": str(int(now + horizon) + 1)}
    positions: dict[str, int] = {}
    writes: list[Item] = []
    for item in parts.fresh:
        key = item.record.partition_key
        positions[key] = positions.get(key, heads.get(key, 0)) + 1
        seen = _place(f"seen#{item.record_id}", "seen")
        writes.append(_put(table, seen | {"expires_at": expires, "writer": {"S": token}}))
        writes.append(_put(table, _effect(item, positions[key], now)))
    writes += [_move_head(table, key, last) for key, last in positions.items()]
    again = {item.record_id for item in parts.refused} - {item.record_id for item in parts.fresh}
    # A refused copy can itself be delivered again for a whole retention from its own arrival.
    writes += [_remember_longer(table, record_id, expires) for record_id in sorted(again)]
    if parts.refused:
        pk = f"refused#{parts.refused[0].record.shard_id}"
        count = {"N": str(len(parts.refused))}
        writes.append(_update(table, pk, "refused", "ADD refusals :v", count))
    return writes


def _effect(item: Identified, position: int, now: float) -> Item:
    record = item.record
    return _place(f"key#{record.partition_key}", f"{position:020d}") | {
        "record_id": {"S": item.record_id},
        "shard_id": {"S": record.shard_id},
        "sequence_number": {"S": record.sequence_number},
        "sub_sequence_number": {"N": str(record.sub_sequence_number)},
        "data": {"B": item.payload},
        # A whole number: an engine that rewrites 1.50 to 1.5 in place forgets its own token.
        "applied_ms": {"N": str(int(now * 1000))},
    }


def _put(table: str, item: Item) -> Item:
    return {
        "Put": {
            "TableName": table,
            "Item": item,
            "ConditionExpression": "attribute_not_exists(pk)",
        }
    }


def _move_head(table: str, key: str, last: int) -> Item:
    write = _update(table, f"key#{key}", "head", "SET #p = :v", {"N": str(last)})
    write["Update"]["ExpressionAttributeNames"] = {"#p": "position"}  # a reserved word there
    return write


def _remember_longer(table: str, record_id: str, expires: Item) -> Item:
    write = _update(table, f"seen#{record_id}", "seen", "SET expires_at = :v", expires)
    # The TTL may take it between the read and this write; an update would make half an item anew.
    write["Update"]["ConditionExpression"] = "attribute_exists(pk)"
    return write


def _update(table: str, pk: str, sk: str, expression: str, value: Item) -> Item:
    return {
        "Update": {
            "TableName": table,
            "Key": _place(pk, sk),
            "UpdateExpression": expression,
            "ExpressionAttributeValues": {":v": value},
        }
    }


def _place(pk: str, sk: str) -> Item:
    return {"pk": {"S": pk}, "sk": {"S": sk}}
