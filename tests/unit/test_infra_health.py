import base64
import hashlib
import socket
import threading

import pytest

from infra.stack.broker import Credentials, new_credentials, password_line
from infra.stack.health import Broker, check_dynamodb, check_http, check_kinesis, check_mqtt


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answering_once(answer: bytes) -> tuple[int, list[bytes]]:
    """A server that takes one connection, reads once, says its piece and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def serve() -> None:
        with server, server.accept()[0] as connection:
            heard.append(connection.recv(4096))
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1]), heard


def test_a_broker_url_is_read():
    broker = Broker.from_url("mqtt://user:p%40ss@127.0.0.1:1884")
    assert broker == Broker(host="127.0.0.1", port=1884, username="user", password="p@ss")
    assert Broker.from_url("mqtt://h").port == 1883


@pytest.mark.parametrize("url", ["", "127.0.0.1:1883", "http://127.0.0.1:1883", "mqtt://"])
def test_a_bad_broker_url_is_a_value_error(url: str):
    with pytest.raises(ValueError, match="mqtt://user:password@host:port"):
        Broker.from_url(url)


def test_a_service_that_is_not_there_is_unhealthy():
    port = closed_port()
    url = f"http://127.0.0.1:{port}"
    for problem in (
        check_kinesis(url),
        check_dynamodb(url),
        check_http(url, "/", service="x"),
        check_mqtt(f"mqtt://u:p@127.0.0.1:{port}"),
    ):
        assert problem is not None
        assert "does not answer" in problem


@pytest.mark.parametrize(
    ("connack", "problem"),
    [
        (b"\x20\x02\x00\x00", None),
        (b"\x20\x02\x00\x04", "bad user name or password"),
        (b"\x20\x02\x00\x05", "not authorized"),
        (b"\x30\x02\x00\x00", "answers CONNECT with 30020000"),
        (b"\x20", "closed the connection"),
    ],
)
def test_the_broker_check_reads_the_connack(connack: bytes, problem: str | None):
    port, heard = answering_once(connack)
    found = check_mqtt(f"mqtt://user:secret@127.0.0.1:{port}")
    assert found is None if problem is None else found is not None and problem in found
    assert heard[0] == b"\x10\x1a\x00\x04MQTT\x04\xc2\x00\x1e\x00\x00\x00\x04user\x00\x06secret"


def test_an_http_error_is_unhealthy():
    port, _ = answering_once(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nwait")
    problem = check_http(f"http://127.0.0.1:{port}", "/ready", service="MiniStack")
    assert problem is not None
    assert "503" in problem
    assert "wait" in problem


def test_credentials_differ_each_time_and_need_no_quoting():
    first, second = new_credentials(), new_credentials()
    assert first.password != second.password
    assert Broker.from_url(first.url("127.0.0.1:1")).password == first.password


def test_the_password_file_holds_a_hash_that_checks_out():
    line = password_line(Credentials("toolkit", "secret"))
    assert "secret" not in line
    user, hashed = line.rstrip("\n").split(":")
    _, kind, iterations, salt, digest = hashed.split("$")
    assert (user, kind, iterations) == ("toolkit", "7", "101")
    expected = hashlib.pbkdf2_hmac("sha512", b"secret", base64.b64decode(salt), 101)
    assert base64.b64decode(digest) == expected
