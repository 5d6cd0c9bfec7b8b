"""What LocalStack alone gets wrong, with an engine that does the same."""

import asyncio
from typing import Any

import pytest
from multidict import CIMultiDict

from infra.proxy.corrections import names
from infra.proxy.exchange import Answer, Incoming
from infra.proxy.messages import Refusal, call_of
from infra.proxy.operations import create_stream
from infra.proxy.operations.subscribe import _unknown_consumer
from infra.proxy.treatment import _with_right_error_type
from infra.proxy.upstream import UpstreamError
from tests.unit.proxy_desk_support import CBOR, JSON
from tests.unit.test_infra_proxy_corrections_operations import DOWN, GONE, Engine, treated

MADE = {"StreamName": "orders", "ShardCount": 1, "Tags": {"team": "river"}}
BUSY = UpstreamError("ResourceInUseException", "being made", 400)


class Tagging(Engine):
    """An engine that forgets the tags of a new stream, and at first refuses to take any."""

    async def ask(self, _call: Any, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.asked.setdefault("calls", []).append((operation, parameters))
        if operation == "AddTagsToStream" and self.asked.pop("busy", None):
            raise BUSY
        if operation == "AddTagsToStream":
            self.asked["tags"] = parameters["Tags"]
        return {"Tags": [{"Key": k, "Value": v} for k, v in self.asked.get("tags", {}).items()]}


def test_the_tags_of_a_new_stream_are_set_where_they_were_forgotten() -> None:
    desk = Tagging(asked={"busy": True})
    assert treated(create_stream.create_stream, desk, "CreateStream", **MADE) == (200, {})
    assert desk.asked["tags"] == {"team": "river"}
    assert desk.tally.corrected == {names.CREATE_STREAM_TAGS: 1}


def test_tags_that_were_kept_are_left_alone() -> None:
    desk = Tagging(asked={"tags": {"team": "river"}})
    assert treated(create_stream.create_stream, desk, "CreateStream", **MADE)[0] == 200
    assert [operation for operation, _ in desk.asked["calls"]] == ["ListTagsForStream"]
    assert not desk.tally.corrected


@pytest.mark.parametrize(
    ("desk", "parameters"),
    [
        (Tagging(), {"StreamName": "orders", "ShardCount": 1}),
        (Tagging([(400, {"__type": "LimitExceededException"})]), MADE),
        (Tagging(corrections=frozenset()), MADE),
    ],
)
def test_without_tags_a_stream_or_the_correction_nothing_is_asked(
    desk: Tagging, parameters: dict[str, Any]
) -> None:
    treated(create_stream.create_stream, desk, "CreateStream", **parameters)
    assert "calls" not in desk.asked


@pytest.mark.parametrize(
    ("answer", "on", "refused"),
    [(GONE, True, True), (GONE, False, False), (DOWN, True, False), ({}, True, False)],
)
def test_only_a_consumer_that_is_not_there_is_refused(
    answer: Any,
    on: bool,  # noqa: FBT001 - a parameter
    refused: bool,  # noqa: FBT001
) -> None:
    desk = Engine(asked={"DescribeStreamConsumer": answer})
    if not on:
        desk.corrections = frozenset(names.ALL) - {names.UNKNOWN_CONSUMER}
    call = call_of(incoming(JSON, b'{"ConsumerARN": "arn:aws:kinesis:consumer"}'))
    found = asyncio.run(_unknown_consumer(call, desk))  # type: ignore[arg-type]
    wanted = Refusal("ResourceNotFoundException", "not there") if refused else None
    assert found == wanted
    assert desk.tally.corrected == ({names.UNKNOWN_CONSUMER: 1} if refused else {})


@pytest.mark.parametrize(
    ("status", "said", "called", "on", "wanted"),
    [
        (400, "application/json", JSON, True, JSON),
        (400, "application/json", JSON, False, "application/json"),
        (200, "application/json", JSON, True, "application/json"),
        (400, "application/json", CBOR, True, "application/json"),
        (400, "text/html", JSON, True, "text/html"),
    ],
)
def test_an_error_has_the_type_of_its_call(
    status: int,
    said: str,
    called: str,
    on: bool,  # noqa: FBT001 - a parameter
    wanted: str,
) -> None:
    desk = Engine(corrections=frozenset({names.ERROR_TYPE} if on else ()))
    answer = Answer(status, CIMultiDict({"Content-Type": said}), b"{}")
    call = call_of(incoming(called, b""))
    _with_right_error_type(call, desk, answer)  # type: ignore[arg-type]
    assert answer.headers["Content-Type"] == wanted
    assert desk.tally.corrected == ({names.ERROR_TYPE: 1} if wanted != said else {})


def incoming(content_type: str, body: bytes) -> Incoming:
    headers = CIMultiDict(
        {"X-Amz-Target": "Kinesis_20131202.SubscribeToShard", "Content-Type": content_type}
    )
    return Incoming("POST", "/", headers, body, "127.0.0.1")
