"""What the desk sends: a client's calls on, and calls of its own under the same identity."""

import asyncio
from typing import Any

import pytest

from infra.proxy.desk import Tally
from infra.proxy.messages import decode
from infra.proxy.upstream import UpstreamError
from tests.unit.proxy_desk_support import CBOR, JSON, Clock, Engine, call, desk_before


def test_a_call_goes_on_untouched_or_with_other_parameters():
    engine = Engine()
    desk = desk_before(engine, Clock())
    for content_type in (JSON, CBOR):
        made = call("PutRecord", {"Data": "QQ=="}, content_type=content_type, X_Mine="1")
        asyncio.run(desk.forward(made))
        _, incoming, body = engine.received[-1]
        assert (incoming, body) == (made.incoming, made.incoming.body)
        asyncio.run(desk.forward(made, {"Data": "Qg=="}))
        _, incoming, body = engine.received[-1]
        assert incoming.headers == made.incoming.headers
        assert decode(body, cbor=made.cbor) == {"Data": "Qg=="}


def test_an_answer_that_has_to_be_read_is_not_asked_for_compressed():
    engine = Engine()
    desk = desk_before(engine, Clock())
    made = call("PutRecord", {}, Accept_Encoding="gzip, deflate", X_Mine="1")
    asyncio.run(desk.forward(made))
    headers = engine.received[-1][1].headers
    assert headers.getall("Accept-Encoding") == ["identity"]
    assert headers["X-Mine"] == "1"
    assert made.incoming.headers["Accept-Encoding"] == "gzip, deflate"


def test_a_call_of_our_own_has_the_clients_identity_and_no_more_of_it():
    engine = Engine()
    made = call(
        "PutRecords",
        {},
        content_type=CBOR,
        Host="h",
        X_Amz_Date="d",
        X_Amz_Security_Token="t",
        Content_Encoding="gzip",
        X_Mine="1",
    )
    answer = asyncio.run(desk_before(engine, Clock()).ask(made, "ListShards", {"StreamName": "s"}))
    assert answer == {"Shards": engine.shards}
    _, incoming, body = engine.received[-1]
    assert (incoming.method, incoming.target) == ("POST", "/")
    assert dict(incoming.headers) == {
        "Authorization": made.incoming.headers["Authorization"],
        "Host": "h",
        "X-Amz-Date": "d",
        "X-Amz-Security-Token": "t",
        "X-Amz-Target": "Kinesis_20131202.ListShards",
        "Content-Type": JSON,
    }
    assert decode(body, cbor=False) == {"StreamName": "s"}


@pytest.mark.parametrize(
    ("status", "value", "error"),
    [
        (400, {"__type": "X", "message": "m"}, ("X", "m", 400)),
        (400, {"__type": "com.amazonaws#X", "Message": "m"}, ("X", "m", 400)),
        (503, {}, ("HTTP 503", "", 503)),
        (200, b"<html>", ("ServiceUnavailable", "the upstream's answer to ListShards", 502)),
        (504, b"<html>", ("ServiceUnavailable", "the upstream's answer to ListShards", 502)),
    ],
)
def test_an_error_is_raised(status: int, value: Any, error: tuple[str, str, int]):
    engine = Engine()
    engine.scripted["ListShards"] = (status, value)
    desk = desk_before(engine, Clock())
    with pytest.raises(UpstreamError) as raised:
        asyncio.run(desk.ask(call("PutRecords", {}), "ListShards", {}))
    assert (raised.value.code, raised.value.status) == (error[0], error[2])
    assert raised.value.message.startswith(error[1])


def test_operations_that_clients_make_up_are_counted_together():
    tally = Tally()
    for number in range(1_000):
        tally.arrived(f"Made{number}")
    assert tally.arrived("Made0") == "Made0"
    assert tally.arrived("Another") == "other"
    assert (len(tally.requests), tally.requests["Made0"], tally.requests["other"]) == (201, 2, 801)
