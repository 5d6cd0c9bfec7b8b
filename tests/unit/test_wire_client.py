"""Where a call of the wire client goes and as whom, against what boto3 decides."""

from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore import exceptions as sdk
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from wire.client import client as wire_client
from wire.connections import Connections
from wire.exchange import Answer

ARN = "arn:aws:kinesis:us-west-2:123456789012:stream/orders"
KEYS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret"}
# One session reads botocore's models once.
SESSION: Any = boto3.session.Session()
HERE = {"region_name": "us-west-2"} | KEYS


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")


@pytest.fixture
def aims(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Any]]:
    """Return a function that says where both clients would send a call: URL and headers."""

    def of(method: str, parameters: dict[str, Any], **arguments: Any) -> tuple[Any, Any]:
        seen: list[tuple[str, dict[str, str]]] = []

        def post(_: Connections, url: str, headers: dict[str, str], _body: bytes) -> Answer:
            seen.append((url, headers))
            return Answer(200, {}, b"\xa0")

        def before_send(request: Any, **_: Any) -> AWSResponse:
            headers = {
                name: value.decode() if isinstance(value, bytes) else value
                for name, value in request.headers.items()
            }
            seen.append((request.url, headers))
            answer = AWSResponse(request.url, 200, {}, None)
            answer._content = b"{}"
            return answer

        monkeypatch.setattr(Connections, "post", post)
        getattr(wire_client(session=SESSION, **arguments), method)(**parameters)
        plain: Any = SESSION.client("kinesis", **arguments)
        plain.meta.events.register("before-send.kinesis", before_send)
        getattr(plain, method)(**parameters)
        return seen[0], seen[1]

    return of


RECORD = {"Data": b"x", "PartitionKey": "k"}
BY_NAME, BY_ARN = {"StreamName": "orders"}, {"StreamARN": ARN}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "https://{account}{data}kinesis.us-west-2.amazonaws.com/"),
        ({"endpoint_url": "http://localhost:4566"}, "http://localhost:4566/"),
        ({"endpoint_url": "http://[::1]:4566/kinesis"}, "http://[::1]:4566/kinesis"),
        ({"use_ssl": False}, None),
        ({"config": Config(use_fips_endpoint=True)}, None),
        ({"config": Config(use_dualstack_endpoint=True)}, None),
        ({"config": Config(account_id_endpoint_mode="disabled"), "aws_account_id": "1"}, None),
        ({"aws_account_id": "210987654321"}, None),
        ({"region_name": "cn-north-1"}, None),
    ],
)
@pytest.mark.parametrize("method", ["put_record", "list_shards"])
@pytest.mark.parametrize("named", [BY_NAME, BY_ARN])
def test_a_call_goes_where_boto3_would_send_it(
    aims: Callable[..., Any],
    arguments: dict[str, Any],
    expected: str | None,
    method: str,
    named: dict[str, str],
):
    parameters = named | (RECORD if method == "put_record" else {})
    if arguments.get("region_name", "").startswith("cn") and named is BY_ARN:
        parameters["StreamARN"] = ARN.replace("arn:aws:", "arn:aws-cn:")
    fast, plain = aims(method, parameters, **(HERE | arguments))
    assert fast[0] == plain[0]
    if expected is not None:
        plane = "data-" if method == "put_record" else "control-"
        account, data = ("123456789012.", plane) if named is BY_ARN else ("", "")
        assert fast[0] == expected.format(account=account, data=data)


def test_it_signs_for_the_same_scope_and_the_same_headers(aims: Callable[..., Any]):
    parameters = BY_NAME | RECORD
    fast, plain = aims("put_record", parameters, aws_session_token="t", **HERE)
    mine, theirs = (each[1]["Authorization"].split(", ") for each in (fast, plain))
    assert mine[0] == theirs[0]
    assert mine[1] == "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
    assert set(theirs[1].removeprefix("SignedHeaders=").split(";")) >= set(
        mine[1].removeprefix("SignedHeaders=").split(";")
    )
    assert fast[1]["X-Amz-Security-Token"] == "t"
    assert fast[1]["User-Agent"].startswith("Boto3/")


def test_it_does_not_sign_by_wish(aims: Callable[..., Any]):
    config = Config(signature_version=UNSIGNED)
    fast, plain = aims("put_record", BY_NAME | RECORD, config=config, **HERE)
    assert "Authorization" not in fast[1]
    assert "Authorization" not in plain[1]


def test_without_credentials_it_says_so(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    client: Any = wire_client(region_name="us-west-2", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(sdk.NoCredentialsError):
        client.list_shards(StreamName="orders")


def test_without_a_region_it_says_so(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    with pytest.raises(sdk.NoRegionError):
        wire_client()


@pytest.mark.parametrize("config", [None, Config(retries={"max_attempts": 9}, read_timeout=7)])
def test_a_call_is_one_attempt_and_the_config_is_left_to_the_others(config: Config | None):
    client: Any = wire_client(config=config, **HERE)
    plain: Any = SESSION.client("kinesis", config=config, **HERE)
    assert client.total_max_attempts == 1
    assert client.meta.config.retries == plain.meta.config.retries
    assert client.meta.config.read_timeout == (7 if config else 60)


def test_parameters_go_unchecked_by_wish(aims: Callable[..., Any]):
    config = Config(parameter_validation=False)
    fast, plain = aims("list_shards", {"StreamName": "", "MaxResults": 0}, config=config, **HERE)
    assert fast[0] == plain[0]


@pytest.mark.parametrize("name", ["AWS_LAMBDA_FUNCTION_NAME", "OTHER"])
def test_a_call_within_a_lambda_function_says_which_one(
    aims: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, "function")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-5759e988;Sampled=1 ✓")
    fast, plain = (each[1].get("X-Amzn-Trace-Id") for each in aims("list_shards", BY_NAME, **HERE))
    assert fast == plain
    assert (fast is None) is (name == "OTHER")


def test_an_arn_of_another_kind_is_refused_as_by_boto3():
    clients: list[Any] = [
        wire_client(**HERE),
        SESSION.client("kinesis", **HERE),
    ]
    said = []
    for client in clients:
        with pytest.raises(sdk.BotoCoreError) as caught:
            client.list_shards(StreamARN="arn:aws:sqs:us-west-2:123456789012:queue")
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]
