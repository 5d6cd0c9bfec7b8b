"""A sink in one DynamoDB table; `consumers.sinks.dynamodb_items` shows the layout.

Guaranteed: each record ID takes effect once within the horizon; the effects of a key are stored in
the order of the shard and are queryable in it; an answer that was lost is told from a duplicate.
Not guaranteed: an order between keys. DynamoDB may delete an expired ID days late, which only
refuses longer. A payload must fit an item of 400 KiB.
"""

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

from consumers.errors import SetupError
from consumers.record import StreamRecord
from consumers.sinks.base import (
    DEFAULT_RETENTION,
    Applied,
    Counts,
    Identified,
    checked_horizon,
    identify,
)
from consumers.sinks.dynamodb_items import Item, groups, read_keys, split, transaction, understand

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

_ATTEMPTS: Final = 8
"""Calls for one group. With the pauses below they spread over some five seconds, after which the
consumer itself starts over with the batch."""

_BASE_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 2.0

# Why a transaction that was refused as a whole may pass when it is built anew.
_PASSING_REASONS: Final = frozenset(
    {
        "None",
        "ConditionalCheckFailed",
        "TransactionConflict",
        "ThrottlingError",
        "ProvisionedThroughputExceeded",
    }
)
_PASSING_ERRORS: Final = frozenset(
    {
        "InternalServerError",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionInProgressException",
    }
)


class DynamoDBSink:
    """Effects, seen IDs and refusals of a stream in one table, made by `ensure_table`.

    Args:
        client: Of boto3.
        table: The table's name.
        retention: Of the stream, seconds.
        horizon: How long an ID is remembered after it was last seen, seconds; at least the
            retention. By default the retention and a day.
        clock: Seconds since the epoch.
        sleep: Waits for seconds.
        rng: Makes tokens and spreads the pauses; the operating system's by default.

    Raises:
        SetupError: The horizon is too short.
    """

    def __init__(
        self,
        client: "DynamoDBClient",
        table: str,
        *,
        retention: float = DEFAULT_RETENTION,
        horizon: float | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.horizon = checked_horizon(horizon, retention)
        self._client = client
        self._table = table
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.SystemRandom()

    def apply(self, records: Sequence[StreamRecord]) -> Applied:
        """Store the batch in order, in transactions of up to 49 records.

        Raises:
            SinkError: A record does not fit an item. What came before it is stored.
            ClientError, BotoCoreError: DynamoDB kept refusing. A prefix of the batch is stored.
        """
        applied = refused = 0
        for group in groups(identify(record) for record in records):
            result = self._apply_group(group)
            applied += result.applied
            refused += result.refused
        return Applied(applied, refused)

    def counts(self) -> Counts:
        """Count what is stored. Reads the whole table: for tests and audits."""
        ids: list[str] = []
        refused = 0
        for item in self._scan():
            if item["sk"]["S"] == "refused":
                refused += int(item["refusals"]["N"])
            elif "record_id" in item:
                ids.append(item["record_id"]["S"])
        return Counts(len(ids), len(set(ids)), refused)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _apply_group(self, group: Sequence[Identified]) -> Applied:
        """Store one group in one transaction.

        1. Read which IDs were seen and where the keys' heads are.
        2. If a seen item carries a token of ours, the write went through and only its answer was
           lost: done.
        3. Write. An error that leaves open whether it was written is answered by the very same
           request: DynamoDB recognises its token for ten minutes.
        4. When a condition failed, someone else wrote in between: start over.
        """
        ours: set[str] = set()
        for attempt in range(1, _ATTEMPTS + 1):
            known = understand(self._read(read_keys(group)))
            parts = split(group, known, ours)
            result = Applied(len(parts.fresh), len(parts.refused))
            if any(known.writers.get(item.record_id) in ours for item in parts.fresh):
                return result
            token = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
            ours.add(token)
            writes = transaction(
                self._table,
                parts,
                known.heads,
                token=token,
                now=self._clock(),
                horizon=self.horizon,
            )
            try:
                self._write(writes, token)
            except ClientError as error:
                if attempt == _ATTEMPTS or not _was_overtaken(error):
                    raise
                self._pause(attempt)
            else:
                return result
        raise AssertionError("the last attempt returns or raises")

    def _write(self, writes: Sequence[Any], token: str) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._client.transact_write_items(TransactItems=writes, ClientRequestToken=token)
            except (ClientError, HTTPClientError, BotoConnectionError) as error:
                if attempt == _ATTEMPTS or not _may_pass(error):
                    raise
                self._pause(attempt)
            else:
                return

    def _read(self, keys: Sequence[Item]) -> list[Any]:
        found: list[Any] = []
        for attempt in range(1, _ATTEMPTS + 1):
            request: Any = {self._table: {"Keys": keys, "ConsistentRead": True}}
            try:
                answer = self._client.batch_get_item(RequestItems=request)
            except (ClientError, HTTPClientError, BotoConnectionError) as error:
                if attempt == _ATTEMPTS or not _may_pass(error):
                    raise
            else:
                found += answer["Responses"].get(self._table, [])
                rest: Any = answer.get("UnprocessedKeys", {}).get(self._table)
                if not rest:
                    return found
                keys = rest["Keys"]
            self._pause(attempt)
        raise ClientError(
            {"Error": {"Code": "ThrottlingException", "Message": "keys stayed unprocessed"}},
            "BatchGetItem",
        )

    def _scan(self) -> Iterator[Any]:
        pages = self._client.get_paginator("scan")
        for page in pages.paginate(TableName=self._table, ConsistentRead=True):
            yield from page["Items"]

    def _pause(self, attempt: int) -> None:
        self._sleep(self._rng.uniform(0.0, min(_MAX_PAUSE, _BASE_PAUSE * 2.0**attempt)))


def ensure_table(client: "DynamoDBClient", table: str, *, wait: float = 60.0) -> None:
    """Make the table and its TTL if they are not there; several may do so at once.

    Args:
        client: Of boto3.
        table: Its name.
        wait: Seconds to wait until it is active.

    Raises:
        SetupError: There is a table of that name with other keys.
        ClientError: DynamoDB refuses.
        botocore.exceptions.WaiterError: It did not become active in time.
    """
    with contextlib.suppress(client.exceptions.ResourceInUseException):
        client.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
            ],
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
        )
    client.get_waiter("table_exists").wait(
        TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": max(1, int(wait))}
    )
    description = client.describe_table(TableName=table)["Table"]
    if [key["AttributeName"] for key in description["KeySchema"]] != ["pk", "sk"]:
        raise SetupError(f"the table {table} has other keys than pk and sk; it was left alone")
    ttl = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    if ttl.get("TimeToLiveStatus") not in {"ENABLED", "ENABLING"}:
        client.update_time_to_live(
            TableName=table,
            TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"},
        )


def _was_overtaken(error: ClientError) -> bool:
    if error.response["Error"]["Code"] != "TransactionCanceledException":
        return False
    reasons: list[Any] = error.response.get("CancellationReasons", [])
    return all(reason.get("Code", "None") in _PASSING_REASONS for reason in reasons)


def _may_pass(error: ClientError | HTTPClientError | BotoConnectionError) -> bool:
    if isinstance(error, ClientError):
        return error.response["Error"]["Code"] in _PASSING_ERRORS
    return True  # no answer came
