"""What the tests of `AsyncAggregatingProducer` share."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    endpoint_of,
    read_back,
    tampering,
)

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


@contextmanager
def gate(stack: Endpoints, held: str = "PutRecords") -> Iterator[tuple[str, threading.Event]]:
    """Hold every call of an operation before the engine until the event is set."""
    opened = threading.Event()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == held:
            opened.wait(60)
        return forward(body)

    with tampering(endpoint_of(stack), tamper) as url:
        try:
            yield url, opened
        finally:
            opened.set()


def stored(kinesis: "KinesisClient", name: str) -> list[tuple[str, bytes]]:
    return [(u.partition_key, u.data) for held in read_back(kinesis, name) for u in held.users()]


def counted(producer: AggregatingProducer) -> list[None]:
    """Note every call of put; return the notes."""
    tries, put = list[None](), producer.put

    def noted(*args: Any, **named: Any) -> Any:
        tries.append(None)
        return put(*args, **named)

    producer.put = noted  # type: ignore[method-assign]
    return tries


def asked_for_room(producer: AggregatingProducer) -> tuple[list[int], threading.Event]:
    """Note the sizes for which room is asked; the event: the last call of them is answered."""
    asks, told, call = list[int](), threading.Event(), producer.call_when_room

    def noted(callback: Callable[[], None], size: int) -> None:
        def tell() -> None:
            callback()
            told.set()

        asks.append(size)
        told.clear()
        call(tell, size)

    producer.call_when_room = noted  # type: ignore[method-assign]
    return asks, told


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)
