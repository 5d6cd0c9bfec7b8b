"""The client to the emulator: what it sends, and what it makes of answers."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
from aiohttp import ClientPayloadError
from multidict import CIMultiDict

from infra.errors import AwsRefusedError
from infra.proxy.exchange import Answer, Incoming
from infra.proxy.serve.service import abort
from infra.proxy.upstream import Upstream as Client
from infra.proxy.upstream import UpstreamError
from tests.scripted_upstream import Upstream, ok

T = TypeVar("T")


@pytest.fixture
def scripted() -> Iterator[Callable[..., Upstream]]:
    made: list[Upstream] = []

    def make(answer: bytes, **script: bool) -> Upstream:
        made.append(Upstream(answer, **script))
        return made[-1]

    yield make
    for upstream in made:
        upstream.close()


def using(url: str, work: Callable[[Client], Awaitable[T]]) -> T:
    async def scenario() -> T:
        async with Client(url) as client:
            return await work(client)

    return asyncio.run(scenario())


def request(method: str = "POST", target: str = "/", body: bytes = b"", **headers: str) -> Incoming:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Incoming(method, target, named, body, "127.0.0.1")


def test_a_request_gets_no_header_that_it_had_not(scripted: Callable[..., Upstream]):
    upstream = scripted(ok())
    incoming = request(
        "POST",
        "/a%2Fb?x=%20",
        b"abc",
        Host="kinesis.example",
        Connection="close",
        Expect="100-continue",
        Content_Length="3",
        Transfer_Encoding="chunked",
        X_Own="1",
    )
    using(upstream.url, lambda client: client.fetch(incoming))
    head, _, body = upstream.received[0].partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"POST /a%2Fb?x=%20 HTTP/1.1"
    assert sorted(lines) == [b"Content-Length: 3", b"Host: kinesis.example", b"X-Own: 1"]
    assert body == b"abc"


def test_another_body_has_its_own_length(scripted: Callable[..., Upstream]):
    upstream = scripted(ok())
    incoming = request(body=b"abc", Host="h", Content_Length="3")
    using(upstream.url, lambda client: client.fetch(incoming, b"longer"))
    assert upstream.received[0].endswith(b"Content-Length: 6\r\n\r\nlonger")


def test_a_whole_answer_has_its_names_and_its_body_as_they_were(
    scripted: Callable[..., Upstream],
):
    answer = ok(b"\x1f\x8bno gzip", b"x-ODD: 1", b"x-ODD: 2", b"Content-Encoding: gzip")
    upstream = scripted(answer.replace(b"200 OK", b"400 So So"))
    fetched = using(upstream.url, lambda client: client.fetch(request(Host="h")))
    headers = CIMultiDict([("x-ODD", "1"), ("x-ODD", "2"), ("Content-Encoding", "gzip")])
    assert fetched == Answer(400, headers, b"\x1f\x8bno gzip", "So So")
    assert [name for name, _ in fetched.headers.items()] == ["x-ODD", "x-ODD", "Content-Encoding"]


def test_a_redirect_is_an_answer_and_cookies_are_not_kept(scripted: Callable[..., Upstream]):
    upstream = scripted(
        ok(b"", b"Location: /elsewhere", b"Set-Cookie: a=b; Path=/").replace(b"200 OK", b"302 Go")
    )
    url = upstream.url.replace("127.0.0.1", "localhost")  # addresses get no cookies anyway

    async def twice(client: Client) -> int:
        await client.fetch(request("GET", Host="h"))
        return (await client.fetch(request("GET", Host="h"))).status

    assert using(url, twice) == 302
    assert len(upstream.received) == 2
    assert b"ookie" not in upstream.received[1]


def test_an_answer_is_there_before_its_body(scripted: Callable[..., Upstream]):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream = scripted(head + b"|5\r\nfirst\r\n|6\r\nsecond\r\n0\r\n\r\n", pieces=True)

    async def read(client: Client) -> list[bytes]:
        upstream.next_piece.release()
        pieces = []
        async with client.send("POST", "/", CIMultiDict(), b"") as answer:
            assert answer.length is None
            upstream.next_piece.release()
            async for piece in answer.chunks():
                pieces.append(piece)
                upstream.next_piece.release()
        return pieces

    assert using(upstream.url, read) == [b"first", b"second"]


def test_nobody_there_is_an_error_with_the_reason():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(UpstreamError, match="Cannot connect to host") as caught:
        using(url, lambda client: client.fetch(request()))
    assert (caught.value.code, caught.value.status) == ("ServiceUnavailable", 502)
    assert caught.value.message.startswith("the proxy's upstream: ")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_broken_answer_is_an_error(
    scripted: Callable[..., Upstream], answer: bytes, *, streamed: bool
):
    upstream = scripted(answer, hang_up=True)

    async def read(client: Client) -> None:
        async with client.send("POST", "/", CIMultiDict(), b"") as arrived:
            if streamed:
                async for _ in arrived.chunks():
                    pass
            else:
                await arrived.read()

    with pytest.raises(UpstreamError) as caught:
        using(upstream.url, read)
    assert caught.value.code == "ServiceUnavailable"
    assert len(upstream.received) == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_nothing_is_sent_a_second_time(method: str):
    async def scenario() -> int:
        received: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                received.append(await reader.readuntil(b"\r\n\r\n"))
                if len(received) != 1:
                    break  # the kept connection fails in the face of the second request
                writer.write(ok())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(url) as client:
            await client.fetch(request(method, Host="h"))
            with pytest.raises(UpstreamError):
                await client.fetch(request(method, Host="h"))
        server.close()
        return len(received)

    assert asyncio.run(scenario()) == 2


def test_a_connection_is_kept_and_one_with_an_unread_answer_is_not():
    async def scenario() -> list[int]:
        connections: list[int] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(0)
            number = len(connections) - 1
            try:
                while await reader.readuntil(b"\r\n\r\n"):
                    connections[number] += 1
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
                    await writer.drain()
                    if connections[number] < 3:
                        writer.write(b"body")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(url) as client:
            for _ in range(2):
                assert (await client.fetch(request("GET", Host="h"))).body == b"body"
            async with client.send("GET", "/", CIMultiDict(Host="h"), b"") as answer:
                assert answer.length == 4  # and is left unread
            assert (await client.fetch(request("GET", Host="h"))).body == b"body"
        server.close()
        return connections

    assert asyncio.run(scenario()) == [3, 1]


def test_a_slow_reader_holds_the_upstream_back():
    async def scenario() -> tuple[int, int]:
        sent = 0
        stuck = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
            for _ in range(1024):
                writer.write(b"x" * 65536)
                try:
                    await asyncio.wait_for(writer.drain(), 0.5)
                except TimeoutError:
                    stuck.set()
                    await writer.drain()
                sent += 65536
            stuck.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with (
            Client(url) as client,
            client.send("GET", "/", CIMultiDict(Host="h"), b"") as answer,
        ):
            await stuck.wait()
            before = sent
            received = 0
            async for piece in answer.chunks():
                received += len(piece)
        server.close()
        return before, received

    before, received = asyncio.run(scenario())
    assert before < 64 * 1024 * 1024 // 2
    assert received == 64 * 1024 * 1024


@pytest.mark.parametrize("target", ["@elsewhere/", "http://elsewhere/", "elsewhere:80", ""])
def test_a_target_cannot_name_another_host(scripted: Callable[..., Upstream], target: str):
    upstream = scripted(ok())
    with pytest.raises(UpstreamError, match="not a path") as caught:
        using(upstream.url, lambda client: client.fetch(request(target=target)))
    assert caught.value.status == 400
    assert not upstream.received


@pytest.mark.parametrize(
    "incoming",
    [
        request(X_Bad="a\r\nX-Other: b"),
        request(X_Bad="a\udcffb"),  # a byte that is no UTF-8, which aiohttp would leave out
        request(target="/a\udcff"),
        request(target="/a#b"),  # of which it would leave out the end
        request(target="/a?b#c"),
    ],
)
def test_what_cannot_be_sent_as_it_is_is_an_error(
    scripted: Callable[..., Upstream], incoming: Incoming
):
    upstream = scripted(ok())
    with pytest.raises(UpstreamError, match="cannot be sent on") as caught:
        using(upstream.url, lambda client: client.fetch(incoming))
    assert caught.value.status == 400
    assert not upstream.received


@pytest.mark.parametrize(
    "head", [b"Transfer-Encoding: chunked\r\n\r\n8\r\n", b"Content-Length: 9\r\n\r\n"]
)
def test_what_came_before_a_break_is_not_lost_to_a_slow_reader(head: bytes):
    async def scenario() -> bytes:
        go_on = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"first")
            await go_on.wait()
            writer.write(b"sec")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with (
            Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client,
            client.send("GET", "/", CIMultiDict(Host="h"), b"") as answer,
        ):
            pieces = answer.chunks()
            received = await anext(pieces)
            end = asyncio.ensure_future(answer._response.content.wait_eof())
            await asyncio.sleep(0)  # it waits now, or it would not see the break
            go_on.set()
            await asyncio.wait({end})
            assert isinstance(end.exception(), ClientPayloadError)
            received += await anext(pieces)
            with pytest.raises(UpstreamError):
                await anext(pieces)
        server.close()
        return received

    assert asyncio.run(scenario()) == b"firstsec"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_end_of_a_connection_is_the_end_of_a_body_and_a_reset_is_not(
    *, streamed: bool, reset: bool
):
    async def scenario() -> bytes:
        begun = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nbody")
            await begun.wait()
            if reset:
                abort(writer.transport, reset=True)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with (
            Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client,
            client.send("GET", "/", CIMultiDict(Host="h"), b"") as answer,
        ):
            assert answer.length is None
            begun.set()
            try:
                if streamed:
                    return b"".join([piece async for piece in answer.chunks()])
                return await answer.read()
            finally:
                server.close()

    if reset:
        with pytest.raises(UpstreamError, match="reset"):
            asyncio.run(scenario())
    else:
        assert asyncio.run(scenario()) == b"body"


def test_a_request_that_is_cancelled_ends_its_connection():
    async def scenario() -> bytes:
        arrived = asyncio.Event()
        ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            arrived.set()
            ended.set_result(await reader.read())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            task = asyncio.create_task(client.fetch(request(Host="h")))
            await arrived.wait()
            task.cancel()
            rest = await asyncio.wait_for(ended, 30)
        server.close()
        return rest

    assert asyncio.run(scenario()) == b""


@pytest.mark.parametrize(
    "url", ["https://kinesis.us-east-1.amazonaws.com", "127.0.0.1:4566", "ftp://127.0.0.1"]
)
def test_aws_and_what_is_no_url_are_refused(url: str):
    with pytest.raises(AwsRefusedError):
        Client(url)


def test_it_says_when_it_is_not_open():
    client = Client("http://127.0.0.1:1")
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(client.fetch(request()))
