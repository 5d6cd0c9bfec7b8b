"""TLS: a certificate that clients can check, both protocols, and no noise from strangers."""

import errno
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import SSLError
from h2.errors import ErrorCodes

from infra.proxy.exchange import Answer, Incoming, Reply, send
from infra.proxy.serve.listen import Address
from infra.proxy.serve.tls import TlsIdentity, throw_away_identity
from tests.h2_client import H2Client
from tests.serve_support import (
    TEXT,
    Seen,
    dial,
    echo_into,
    exchange,
    flooding_into,
    read_all,
    read_until,
    served,
    tracebacks,
    waiting_into,
)
from tests.support import eventually

GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def identity() -> TlsIdentity:
    return throw_away_identity("proxy.example", "localhost", "10.1.2.3")


def trusting(identity: TlsIdentity, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=identity.ca_pem.decode())
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def dial_tls(
    address: Address, identity: TlsIdentity, *alpn: str, name: str = "localhost"
) -> ssl.SSLSocket:
    return trusting(identity, *alpn).wrap_socket(
        dial(address), server_hostname=name, suppress_ragged_eofs=False
    )


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "proxy.example", "10.1.2.3"])
def test_the_certificate_is_good_for_every_name(identity: TlsIdentity, name: str):
    with (
        served(echo_into(Seen()), tls=identity) as address,
        dial_tls(address, identity, name=name) as connection,
    ):
        assert address.url == f"https://127.0.0.1:{address.port}"
        connection.sendall(GET)
        assert read_all(connection).startswith(b"HTTP/1.1 200 OK\r\n")


def test_boto3_believes_the_authority_and_no_other(identity: TlsIdentity, tmp_path: Path):
    seen = Seen()

    async def answer(incoming: Incoming, reply: Reply) -> None:
        seen.requests.append(incoming)
        await send(Answer(200, TEXT, b'{"StreamNames":["a"],"HasMoreStreams":false}'), reply)

    right, wrong = tmp_path / "ca.pem", tmp_path / "other.pem"
    right.write_bytes(identity.ca_pem)
    wrong.write_bytes(throw_away_identity().ca_pem)
    config = Config(retries={"total_max_attempts": 1})
    session = boto3.session.Session()
    with served(answer, tls=identity) as address:
        client = session.client(
            "kinesis", endpoint_url=address.url, verify=str(right), config=config
        )
        assert client.list_streams()["StreamNames"] == ["a"]
        client.close()
        client = session.client(
            "kinesis", endpoint_url=address.url, verify=str(wrong), config=config
        )
        with pytest.raises(SSLError):
            client.list_streams()
        client.close()
    assert [r.headers["X-Amz-Target"] for r in seen.requests] == ["Kinesis_20131202.ListStreams"]


@pytest.mark.parametrize("alpn", [("h2", "http/1.1"), ("h2",), ()])
def test_http2_is_agreed_on_or_seen_from_the_first_bytes(
    identity: TlsIdentity, alpn: tuple[str, ...]
):
    tls = trusting(identity, *alpn)
    with (
        served(echo_into(Seen()), tls=identity) as address,
        H2Client("localhost", address.port, tls=tls) as client,
    ):
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == ("h2" if alpn else None)
        assert client.answer(client.ask("/", b"x" * 100_000)).body == b"x" * 100_000


def test_http1_is_agreed_on(identity: TlsIdentity):
    with (
        served(echo_into(Seen()), tls=identity) as address,
        dial_tls(address, identity, "http/1.1") as connection,
    ):
        assert connection.selected_alpn_protocol() == "http/1.1"
        connection.sendall(GET)
        assert read_all(connection).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_server_ends_while_connections_are_saying_goodbye(identity: TlsIdentity):
    with (
        served(echo_into(Seen()), tls=identity) as address,
        dial_tls(address, identity) as http1,
        H2Client("localhost", address.port, tls=trusting(identity, "h2")) as http2,
    ):
        http1.sendall(GET)
        assert read_all(http1).startswith(b"HTTP/1.1 200 OK\r\n")
        assert http2.answer(http2.ask("/", b"x")).body == b"x"
        http2.h2.close_connection(ErrorCodes.INTERNAL_ERROR)
        http2.flush()
        while not http2.closed:
            http2.receive()
        # The server waits for the farewell of both, and is told to end in the middle of it.


def test_strangers_leave_no_traceback(
    identity: TlsIdentity, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    with served(echo_into(Seen()), tls=identity) as address:
        for noise in (GET, b"\x16\x03\x01\x00\x05hello", b""):
            with dial(address) as connection:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    read_all(connection)
        with pytest.raises(ssl.SSLError):
            dial_tls(address, throw_away_identity())
        with dial_tls(address, identity) as connection:
            connection.sendall(GET)
            assert read_all(connection).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not tracebacks(caplog)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_does_not_say_goodbye(identity: TlsIdentity, *, reset: bool):
    async def cut(_: Incoming, reply: Reply) -> None:
        reply.cut(reset=reset)

    with (
        served(cut, tls=identity) as address,
        dial_tls(address, identity) as connection,
    ):
        connection.sendall(GET)
        if reset:  # Python's ssl says the same of both, but the system does not
            eventually(
                lambda: (
                    connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
                )
            )
        with pytest.raises(ssl.SSLEOFError):
            connection.recv(1)


def test_a_client_that_leaves_cancels_the_handler(identity: TlsIdentity):
    seen = Seen()
    with served(waiting_into(seen), tls=identity) as address:
        with dial_tls(address, identity) as connection:
            connection.sendall(GET)
            eventually(lambda: seen.requests)
        eventually(lambda: seen.cancelled)


def test_large_answers_pass(identity: TlsIdentity):
    with (
        served(flooding_into(Seen(), 64), tls=identity) as address,
        dial_tls(address, identity) as connection,
    ):
        connection.sendall(GET)
        answer = read_until(connection, b"\r\n0\r\n\r\n")
    assert answer.count(b"x") > 64 * 65536 - 1


def test_a_listener_for_ipv6_has_its_address_in_brackets():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with served(echo_into(Seen()), host="::1") as address:
        assert address.url == f"http://[::1]:{address.port}"
        assert exchange(address, GET).startswith(b"HTTP/1.1 200 OK\r\n")
