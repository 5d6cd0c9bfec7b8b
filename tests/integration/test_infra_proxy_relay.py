"""The whole proxy before a scripted upstream: what it was not asked to change is not changed."""

import asyncio
import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra.errors import AwsRefusedError
from infra.proxy import control
from infra.proxy.corrections import names
from infra.proxy.proxy import running_proxy
from infra.proxy.settings import ProxySettings
from tests.proxy_in_thread import kinesis_at, proxied
from tests.proxy_process import GET_POLICY, ask, policy_of
from tests.scripted_upstream import MIB, Upstream, connection_to, ok, raw_exchange

RELAYED: dict[str, Any] = {}
TREATED: dict[str, Any] = {"quotas": True, "corrections": frozenset(names.ALL)}
EITHER = pytest.mark.parametrize("settings", [RELAYED, TREATED], ids=["relayed", "treated"])

Scripted = Callable[..., tuple[Upstream, str]]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with ExitStack() as opened:

        def make(answer: bytes, *, script: dict[str, bool] | None = None, **settings: Any) -> Any:
            upstream = Upstream(answer, **(script or {}))
            opened.callback(upstream.close)
            return upstream, opened.enter_context(proxied(upstream.url, **settings)).url

        yield make


@EITHER
def test_a_request_arrives_byte_for_byte(scripted: Scripted, settings: dict[str, Any]):
    upstream, url = scripted(ok(), **settings)
    body = (
        policy_of("orders").replace(b":", b" : ", 1).replace(b"}", b',\n"Odd":"\xc3\xa9\\u00e9"}')
    )
    request = (
        b"POST /a%2Fb/?x=%20y&z HTTP/1.1\r\n"
        b"Host: kinesis.example:1234\r\n"
        b"X-Amz-Target: Kinesis_20131202.GetResourcePolicy\r\n"
        b"content-type: application/x-amz-json-1.1\r\n"
        b"X-Twice: one\r\n"
        b"X-Twice: two\r\n"
        b"x-odd: \xc3\xa9\r\n"
        b"Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=y\r\n"
        b"Connection: close\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )
    raw_exchange(url, request)
    assert len(upstream.received) == 1
    head, _, received = upstream.received[0].partition(b"\r\n\r\n")
    assert received == body
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /a%2Fb/?x=%20y&z HTTP/1.1"
    sent = request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    unchanged = [line for line in sent if not line.startswith(b"Connection")]
    assert sorted(lines[1:]) == sorted(unchanged)


@EITHER
def test_an_answer_comes_back_byte_for_byte(scripted: Scripted, settings: dict[str, Any]):
    body = b'{"Policy" : "\\u00e9\xc3\xa9"}\n'
    answer = ok(
        body, b"x-amzn-RequestId: 1", b"Set-Cookie: a", b"Set-Cookie: b", b"x-odd: \xc3\xa9"
    ).replace(b"200 OK", b"200 Fine")
    _, url = scripted(answer, **settings)
    lines = [f"{name}: {value}" for name, value in GET_POLICY.items()]
    asked = policy_of("orders")
    lines += [f"Content-Length: {len(asked)}", "Connection: close"]
    request = "\r\n".join(["POST / HTTP/1.1", "Host: h", *lines]).encode()
    returned = raw_exchange(url, request + b"\r\n\r\n" + asked)
    head, _, received = returned.partition(b"\r\n\r\n")
    assert received == body
    wanted = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    found = [line for line in head.split(b"\r\n") if not line.startswith(b"Connection")]
    assert sorted(found) == sorted(wanted)


def test_what_is_no_call_passes_whatever_it_is(scripted: Scripted):
    body = bytes(range(256)) * 3
    upstream, url = scripted(ok(body), **TREATED)
    connection = connection_to(url)
    connection.request("PUT", "/bucket/key?acl", body, {"Content-Type": "image/png"})
    assert connection.getresponse().read() == body
    connection.close()
    assert upstream.received[0].startswith(b"PUT /bucket/key?acl HTTP/1.1\r\n")
    assert upstream.received[0].endswith(b"\r\n\r\n" + body)


@EITHER
@pytest.mark.parametrize("status", [b"400 Bad Request", b"500 Oops", b"503 Busy"])
def test_an_error_is_passed_on_and_is_never_lost(
    scripted: Scripted, status: bytes, settings: dict[str, Any]
):
    body = b'{"__type":"LimitExceededException"}'
    _, url = scripted(ok(body).replace(b"200 OK", status), **settings)
    control.lose(url, "GetResourcePolicy")
    assert ask(url) == (int(status.split()[0]), body)
    assert control.status(url)["lost"] == 0
    assert control.status(url)["faults"]["pending"] == 1


@EITHER
def test_connections_are_kept_alive(scripted: Scripted, settings: dict[str, Any]):
    _, url = scripted(ok(b'{"again":1}'), **settings)
    connection = connection_to(url)
    connection.connect()
    kept = connection.sock
    for _ in range(3):
        connection.request("POST", "/", policy_of("orders"), GET_POLICY)
        assert connection.getresponse().read() == b'{"again":1}'
        assert connection.sock is kept
    connection.close()


def test_a_lost_answer_is_not_one_byte(scripted: Scripted):
    upstream, url = scripted(ok(b"x" * 100_000))
    control.add(url, action="lose")
    request = b"GET /object HTTP/1.1\r\nHost: h\r\n\r\n"
    try:
        returned = raw_exchange(url, request)
    except ConnectionResetError:
        returned = b""
    assert returned == b""
    assert len(upstream.received) == 1
    connection = connection_to(url)
    connection.request("GET", "/object")
    assert connection.getresponse().read() == b"x" * 100_000
    connection.close()
    status = control.status(url)
    assert (status["requests"], status["lost"], status["faults"]["pending"]) == (2, 1, 0)
    assert [each["operation"] for each in status["faults"]["strikes"]] == ["GET"]


def test_a_stream_comes_event_by_event(scripted: Scripted):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = head + b"5\r\nfirst\r\n|6\r\nsecond\r\n|0\r\n\r\n"
    upstream, url = scripted(answer, script={"pieces": True})
    connection = connection_to(url)
    connection.request("POST", "/", b"{}", {"X-Amz-Target": "Kinesis_20131202.SubscribeToShard"})
    upstream.next_piece.release()
    response = connection.getresponse()
    # The second event has not been sent yet, so this would block if the proxy waited for it.
    assert response.read(5) == b"first"
    upstream.next_piece.release()
    assert response.read(6) == b"second"
    upstream.next_piece.release()
    assert response.read() == b""
    connection.close()


HALVES = [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
]


@pytest.mark.parametrize("answer", HALVES, ids=["chunked", "of known length"])
def test_an_answer_that_breaks_off_does_not_look_whole(scripted: Scripted, answer: bytes):
    _, url = scripted(answer, script={"hang_up": True})
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(url)
    assert control.status(url)["upstream_errors"] == 1


@pytest.mark.parametrize("answer", HALVES, ids=["chunked", "of known length"])
def test_an_answer_that_breaks_off_is_a_502_where_it_is_read_whole(
    scripted: Scripted, answer: bytes
):
    _, url = scripted(answer, script={"hang_up": True}, **TREATED)
    assert ask(url)[0] == 502
    assert control.status(url)["upstream_errors"] == 1


@EITHER
def test_eleven_mebibytes_pass(scripted: Scripted, settings: dict[str, Any]):
    body = policy_of("orders")[:-1] + b',"Odd":"%b"}' % os.urandom(MIB * 11 // 2).hex().encode()
    upstream, url = scripted(ok(body), **settings)
    assert ask(url, body) == (200, body)
    assert upstream.received[0].endswith(b"\r\n\r\n" + body)


def test_an_upstream_that_is_down_is_a_502_with_the_reason():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with proxied(f"http://127.0.0.1:{port}") as proxy:
        control.lose(proxy.url, "ListStreams")
        client = kinesis_at(proxy.url)
        with pytest.raises(ClientError, match=rf"{port}.*") as caught:
            client.list_streams()
        client.close()
        assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 502
        status = control.status(proxy.url)
        assert (status["upstream_errors"], status["faults"]["pending"]) == (1, 1)


def test_the_proxys_own_paths_do_not_reach_the_upstream(scripted: Scripted):
    upstream, url = scripted(ok())
    with pytest.raises(ValueError, match="count of at least 1"):
        control.lose(url, "PutRecords", 0)
    connection = connection_to(url)
    connection.request("GET", "/_proxy/nothing")
    response = connection.getresponse()
    assert response.status == 404
    assert json.loads(response.read())["error"]
    connection.close()
    assert not upstream.received
    assert control.status(url)["requests"] == 0


def test_running_it_before_aws_is_refused():
    async def scenario() -> None:
        async with running_proxy(ProxySettings(upstream="https://kinesis.eu-west-1.amazonaws.com")):
            pytest.fail("it must not run")

    with pytest.raises(AwsRefusedError):
        asyncio.run(scenario())
