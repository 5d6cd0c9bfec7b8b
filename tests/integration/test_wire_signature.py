"""What the wire client signs is what arrives: the signature is worked out again by the server."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.session import get_session

from tests.integration.wire_support import Heard, Reply, client_named, reply, scripted
from wire.client import client as wire_client


def fine(_heard: Heard) -> Reply:
    return reply({"Records": []})


def signature_of(heard: Heard, key: str, secret: str) -> str:
    """Sign, from what a server got, the headers that the request says are signed."""
    _, _, fields = heard.headers["authorization"].partition(" ")
    signed = dict(field.split("=", 1) for field in fields.split(", "))["SignedHeaders"].split(";")
    headers = {name: heard.headers[name] for name in signed}
    url = f"http://{heard.headers['host']}{heard.target}"
    request = AWSRequest("POST", url, headers, heard.body)
    now = datetime.strptime(heard.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    with patch("botocore.auth.get_current_datetime", return_value=now):
        SigV4Auth(Credentials(key, secret), "kinesis", "us-east-1").add_auth(request)
    return str(request.headers["Authorization"])


@pytest.mark.parametrize("size", [0, 1, 100_000])
@pytest.mark.parametrize("count", [1, 3, 300])
@pytest.mark.parametrize("path", ["", "/some/path"])
def test_the_signature_fits_what_arrived(size: int, count: int, path: str):
    keys: dict[str, Any] = {"aws_access_key_id": "AKID", "aws_secret_access_key": "secret"}
    with scripted(fine) as server:
        client = client_named("wire", server.url + path, **keys)
        records = [{"Data": b"\xff" * size, "PartitionKey": f"✓ {n}"} for n in range(count)]
        client.put_records(StreamName="s", Records=records)
        client.close()
    [heard] = server.heard
    assert heard.headers["authorization"] == signature_of(heard, "AKID", "secret")
    assert heard.headers["content-length"] == str(len(heard.body))
    assert heard.parameters == {"StreamName": "s", "Records": records}
    # Else the comparison would hold for any two requests.
    other = SimpleNamespace(headers=heard.headers, target=heard.target, body=heard.body + b"x")
    assert heard.headers["authorization"] != signature_of(other, "AKID", "secret")  # type: ignore[arg-type]


def test_fresh_credentials_are_used_once_they_are_there():
    issued: list[str] = []

    def refresh() -> dict[str, str]:
        issued.append(f"AKID{len(issued)}")
        # So near its end that it is renewed for every request.
        end = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
        return {"access_key": issued[-1], "secret_key": "s", "token": "t", "expiry_time": end}

    core = get_session()
    core._credentials = RefreshableCredentials.create_from_metadata(refresh(), refresh, "test")
    with scripted(fine) as server:
        session = boto3.session.Session(botocore_session=core)
        client: Any = wire_client(session=session, endpoint_url=server.url)
        put: Callable[..., Any] = client.put_records
        for _ in range(2):
            put(StreamName="s", Records=[{"Data": b"", "PartitionKey": "k"}])
        client.close()
    first, second = (
        each.headers["authorization"].partition("Credential=")[2].partition("/")[0]
        for each in server.heard
    )
    assert first != second
    assert {first, second} <= set(issued[1:])
