"""TLS as boto3 speaks it: whom it trusts, and what an end before and after the handshake means."""

import os
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from botocore import exceptions as sdk

from tests.integration.wire_support import (
    Heard,
    Reply,
    both,
    client_named,
    fine,
    put,
    reply,
    scripted,
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def serving(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def test_tls_with_a_bundle(authority: trustme.CA, ca_file: str):
    with scripted(fine, tls=serving(authority)) as server:
        client = client_named("wire", server.url, verify=ca_file)
        put(client)
        put(client)
    assert {each.connection for each in server.heard} == {0}


def test_tls_with_the_bundle_of_the_environment(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_CA_BUNDLE", ca_file)
    with scripted(fine, tls=serving(authority)) as server:
        assert put(client_named("wire", server.url))["Records"]


@pytest.mark.parametrize("case", ["stranger", "wrong name", "no such bundle"])
def test_tls_that_cannot_be_trusted(case: str, authority: trustme.CA, ca_file: str):
    name = "elsewhere.example" if case == "wrong name" else "localhost"
    options = {
        "stranger": {},
        "wrong name": {"verify": ca_file},
        "no such bundle": {"verify": "/nowhere.pem"},
    }
    with scripted(fine, tls=serving(authority, name)) as server:
        fast, plain = both(server.url, **options[case])
    assert fast["raised"][0] is plain["raised"][0] is sdk.SSLError
    assert server.heard == []


def test_tls_unchecked_by_wish(authority: trustme.CA):
    with scripted(fine, tls=serving(authority, "elsewhere.example")) as server:
        assert put(client_named("wire", server.url, verify=False))["Records"]


def test_a_certificate_of_the_client(authority: trustme.CA, ca_file: str, tmp_path: Path):
    mine = tmp_path / "client.pem"
    authority.issue_cert("client@example").private_key_and_cert_chain_pem.write_to_path(str(mine))
    demanding = serving(authority)
    demanding.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(demanding)
    with scripted(fine, tls=demanding) as server:
        client = client_named(
            "wire", server.url, verify=ca_file, settings={"client_cert": str(mine)}
        )
        assert put(client)["Records"]
        with pytest.raises((sdk.SSLError, sdk.ConnectionClosedError)):
            put(client_named("wire", server.url, verify=ca_file))


def test_a_handshake_that_hangs_is_a_connect_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://localhost:{silent.getsockname()[1]}"
        with pytest.raises(sdk.ConnectTimeoutError):
            put(client_named("wire", url, settings={"connect_timeout": 0.5}))


def test_what_comes_behind_an_answer_in_its_tls_record_is_not_the_next_answer(
    authority: trustme.CA, ca_file: str
):
    def script(heard: Heard) -> Reply:
        answer = fine(heard)
        stale = reply({"__type": "LimitExceededException"}, status=408)
        return Reply(answer.content + stale.content) if heard.connection == 0 else answer

    with scripted(script, tls=serving(authority)) as server:
        client = client_named("wire", server.url, verify=ca_file)
        for _ in range(3):
            assert put(client)["FailedRecordCount"] == 0
        client.close()
    assert [each.connection for each in server.heard] == [0, 1, 1]


def test_tls_that_breaks_after_the_request_is_no_sign_that_nothing_was_sent(
    authority: trustme.CA, ca_file: str
):
    def script(heard: Heard) -> None:
        with socket.socket(fileno=os.dup(server.connections[heard.connection].fileno())) as raw:
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that does not verify

    with scripted(script, tls=serving(authority)) as server:
        fast, plain = both(server.url, verify=ca_file)
    assert fast["raised"][0] is sdk.ConnectionClosedError
    assert plain["raised"][0] is sdk.SSLError
    assert len(server.heard) == 2
