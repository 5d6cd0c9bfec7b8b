"""Sockets that stall, close, lie and multiply: one request a call, botocore's exceptions."""

import gc
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from botocore import exceptions as sdk

from tests.integration.wire_support import (
    RECORD,
    Heard,
    Reply,
    Script,
    assert_alike,
    both,
    client_named,
    fine,
    put,
    reply,
    scripted,
)
from tests.support import eventually

Make = Callable[..., Any]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Any] = []

    def client(url: str, *, name: str = "wire", **arguments: Any) -> Any:
        made.append(client_named(name, url, **arguments))
        return made[-1]

    yield client
    for each in made:
        each.close()


CUT = reply({"Records": []}).content[:-3]
RAW_ENDS: dict[str, Reply | None] = {
    "closed without a word": None,
    "closed in the head": Reply(b"HTTP/1.1 200 O", keep=False),
    "closed in the headers": Reply(b"HTTP/1.1 200 OK\r\nContent-Le", keep=False),
    "closed in the body": Reply(CUT, keep=False),
    "no HTTP": Reply(b"SSH-2.0-OpenSSH_9.6\r\n", keep=False),
    "closed in a chunk": Reply(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", keep=False
    ),
}


@pytest.mark.parametrize("end", RAW_ENDS)
def test_an_answer_that_breaks_off_is_no_answer(end: str):
    with scripted(lambda _: RAW_ENDS[end]) as server:
        fast, plain = both(server.url)
    assert fast["raised"][0] is sdk.ConnectionClosedError
    if end in ("closed in the head", "closed in the headers"):
        # Python's parser fills in the rest, and boto3 returns an answer without members.
        assert plain.keys() == {"ResponseMetadata"}
    else:
        assert plain["raised"][0] is sdk.ConnectionClosedError
    assert len(server.heard) == 2  # one request each: nothing is sent twice


def test_a_silent_server_is_a_read_timeout():
    over = threading.Event()
    with scripted(lambda _: over.wait(20) and None) as server:
        try:
            # Were it the other one that counts, the connection would be closed before.
            settings = {"connect_timeout": 60, "read_timeout": 0.5}
            fast, plain = both(server.url, settings=settings)
        finally:
            over.set()
    assert fast["raised"][0] is plain["raised"][0] is sdk.ReadTimeoutError
    assert len(server.heard) == 2


def test_a_server_that_stops_in_the_middle_is_a_read_timeout(make: Make):
    with scripted(lambda _: Reply(CUT)) as server:
        client = make(server.url, settings={"read_timeout": 0.5})
        with pytest.raises(sdk.ReadTimeoutError):
            put(client)
        # That connection has half an answer in it and is not used again.
        with pytest.raises(sdk.ReadTimeoutError):
            put(client)
        assert [each.connection for each in server.heard] == [0, 1]


def test_a_refused_connection():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    fast, plain = both(url)
    assert fast["raised"][0] is plain["raised"][0] is sdk.EndpointConnectionError
    assert fast["says"] == plain["says"]


def test_a_name_that_nobody_has():
    fast, plain = both("http://no-such-host.invalid")
    assert fast["raised"][0] is plain["raised"][0] is sdk.EndpointConnectionError


def test_a_connection_that_nobody_accepts_is_a_connect_timeout():
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        first.connect_ex(full.getsockname())
        with socket.socket() as second:
            second.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            second.connect_ex(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            fast, plain = both(url, settings={"connect_timeout": 0.5})
    assert fast["raised"][0] is plain["raised"][0] is sdk.ConnectTimeoutError


def test_connections_are_kept(make: Make):
    with scripted(fine) as server:
        client = make(server.url)
        for _ in range(5):
            put(client)
    assert {each.connection for each in server.heard} == {0}


def test_a_connection_that_the_server_closed_meanwhile_is_not_used(make: Make):
    with scripted(fine) as server:
        client = make(server.url)
        put(client)
        server.connections[0].shutdown(socket.SHUT_RDWR)
        put(client)
    assert [each.connection for each in server.heard] == [0, 1]


def test_a_connection_that_the_server_says_it_closes_is_not_kept(make: Make):
    closing = fine(Heard(0, {}, b"", "/")).content.replace(
        b"200 X\r\n", b"200 X\r\nConnection: close\r\n"
    )
    with scripted(lambda _: Reply(closing)) as server:
        client = make(server.url)
        put(client)
        put(client)
    assert [each.connection for each in server.heard] == [0, 1]


def test_no_more_idle_connections_are_kept_than_the_config_says(make: Make):
    together = threading.Barrier(4)

    def script(heard: Heard) -> Reply:
        if heard.parameters["StreamName"] == "together":
            together.wait(30)
        return fine(heard)

    with scripted(script) as server, ThreadPoolExecutor(4) as threads:
        client = make(server.url, settings={"max_pool_connections": 2})
        for _ in range(2):
            calls = [
                threads.submit(client.put_records, StreamName="together", Records=[RECORD])
                for _ in range(4)
            ]
            for call in calls:
                call.result(30)
    # Four at once need four connections; two of them are kept, so two are new the second time.
    assert sorted({each.connection for each in server.heard}) == [0, 1, 2, 3, 4, 5]


def test_sixteen_threads_get_each_its_own_answer(make: Make):
    def script(heard: Heard) -> Reply:
        [record] = heard.parameters["Records"]
        return reply({"Records": [{"SequenceNumber": record["PartitionKey"], "ShardId": "s"}]})

    def work(thread: int) -> list[str]:
        numbers = [f"{thread}-{n}" for n in range(50)]
        for number in numbers:
            answer = client.put_records(
                StreamName="s", Records=[{"Data": os.urandom(2_000), "PartitionKey": number}]
            )
            assert answer["Records"][0]["SequenceNumber"] == number
        return numbers

    with scripted(script) as server, ThreadPoolExecutor(16) as threads:
        client = make(server.url)
        done = [number for numbers in threads.map(work, range(16)) for number in numbers]
    assert len(done) == len(server.heard) == 800
    assert {each.parameters["Records"][0]["PartitionKey"] for each in server.heard} == set(done)


def test_a_forked_child_makes_connections_of_its_own(make: Make):
    with scripted(fine) as server:
        client = make(server.url)
        put(client)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                put(client)
                put(client)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        put(client)
    assert [each.connection for each in server.heard] == [0, 1, 1, 0]


def test_close_closes_and_a_call_after_it_connects_anew(make: Make):
    with scripted(fine) as server:
        client = make(server.url)
        put(client)
        client.close()
        eventually(lambda: server.connections[0].fileno() == -1, message="the server sees the end")
        put(client)
    assert [each.connection for each in server.heard] == [0, 1]


def test_close_during_a_call_closes_its_connection_after_it(make: Make):
    arrived, closed = threading.Event(), threading.Event()

    def script(heard: Heard) -> Reply:
        arrived.set()
        closed.wait(30)
        return fine(heard)

    with scripted(script) as server, ThreadPoolExecutor(1) as thread:
        client = make(server.url)
        call = thread.submit(put, client)
        arrived.wait(30)
        client.close()
        closed.set()
        assert call.result(30)["Records"]
        eventually(lambda: server.connections[0].fileno() == -1, message="the server sees the end")
        put(client)
        put(client)
    assert [each.connection for each in server.heard] == [0, 1, 1]


def test_a_client_that_is_dropped_closes_its_connections():
    gc.collect()  # what others dropped
    with scripted(fine) as server, warnings.catch_warnings():
        warnings.simplefilter("error")  # pytest tells of one that nobody can catch
        client = client_named("wire", server.url)
        put(client)
        del client
        gc.collect()
        eventually(lambda: server.connections[0].fileno() == -1, message="the server sees the end")


def test_the_other_operations_retry_as_the_config_says(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
    retries = {"mode": "standard", "total_max_attempts": 3}
    with scripted(lambda _: reply(raw=b"{}", status=500)) as server:
        client = make(server.url, settings={"retries": retries})
        for call in (client.describe_limits, lambda: put(client)):
            with pytest.raises(client.exceptions.ClientError):
                call()
    asked = [each.headers["x-amz-target"].partition(".")[2] for each in server.heard]
    assert asked == ["DescribeLimits"] * 3 + ["PutRecords"]


def test_an_early_refusal_of_a_large_request_is_read():
    refusal = reply({"__type": "LimitExceededException", "message": "large"}, status=413)

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:  # closed with most of the request unread, which resets the connection
            connection.recv(1)
            connection.sendall(refusal.content)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse)
        thread.start()
        client = client_named("wire", f"http://127.0.0.1:{listener.getsockname()[1]}")
        large = [{"Data": b"x" * 1_000_000, "PartitionKey": "k"}] * 5
        with pytest.raises(client.exceptions.LimitExceededException, match="large"):
            client.put_records(StreamName="s", Records=large)
        client.close()
        thread.join(30)


ANSWERS: dict[str, Script] = {
    "a throttle": lambda _: reply({"__type": "ThrottlingException", "message": "m"}, status=400),
    "a load balancer's page": lambda _: reply(raw=b"<html>busy</html>", status=503),
    "an empty 500": lambda _: reply(raw=b"", status=500),
    "JSON": lambda _: reply(
        raw=b'{"__type":"AccessDeniedException","Message":"no"}',
        status=400,
        content_type="application/x-amz-json-1.1",
    ),
    "a text": lambda _: reply(raw=b"who are you?", status=403, content_type="text/plain"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_errors_of_those_in_between(answer: str):
    def script(heard: Heard) -> Reply | None:
        given = ANSWERS[answer](heard)
        if "json" in heard.headers["content-type"] and answer == "a throttle":
            return reply(raw=b'{"__type":"ThrottlingException","message":"m"}', status=400)
        return given

    with scripted(script) as server:
        fast, plain = both(server.url)
    assert_alike(fast, plain)
    assert len(server.heard) == 2


@pytest.mark.parametrize("raw", [b"", b"\xa1", b"<html></html>"])
def test_an_answer_that_cannot_be_read_is_a_failure_that_may_have_been_stored(
    make: Make, raw: bytes
):
    with scripted(lambda _: reply(raw=raw)) as server, pytest.raises(sdk.HTTPClientError):
        put(make(server.url))


def test_a_proxy_gets_the_whole_address(make: Make):
    with scripted(fine) as proxy:
        client = make("http://kinesis.example", settings={"proxies": {"http": proxy.url}})
        assert put(client)["Records"]
    assert proxy.heard[0].target == "http://kinesis.example/"


def test_a_proxy_of_the_environment(make: Make, monkeypatch: pytest.MonkeyPatch):
    with scripted(fine) as proxy, scripted(fine) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "localhost")
        assert put(make("http://kinesis.example"))["Records"]
        assert put(make(server.url))["Records"]
    assert len(proxy.heard) == len(server.heard) == 1


def test_a_proxy_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}"
    fast, plain = both("http://kinesis.example", settings={"proxies": {"http": gone}})
    assert fast["raised"][0] is plain["raised"][0] is sdk.ProxyConnectionError


def test_an_interim_answer_through_a_proxy_is_not_the_answer(make: Make):
    def script(heard: Heard) -> Reply:
        early = Reply(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        return early if heard.connection == 0 else fine(heard)

    with scripted(script) as proxy:
        client = make("http://kinesis.example", settings={"proxies": {"http": proxy.url}})
        with pytest.raises(sdk.HTTPClientError, match="interim"):
            put(client)
        # The connection on which the answer is still to come is not used again.
        assert put(client)["Records"]
    assert [each.connection for each in proxy.heard] == [0, 1]


@pytest.mark.parametrize("proxied", [False, True])
def test_a_header_beyond_latin_1(make: Make, proxied: bool):  # noqa: FBT001
    with scripted(fine) as server:
        settings: dict[str, Any] = {"user_agent_extra": "naïve-✓"}
        settings |= {"proxies": {"http": server.url}} if proxied else {}
        assert put(make(server.url, settings=settings))["Records"]
    assert server.heard[0].headers["user-agent"].endswith(" naïve-✓")
