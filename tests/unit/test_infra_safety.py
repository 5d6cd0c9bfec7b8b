from pathlib import Path

import pytest

from infra.errors import AwsRefusedError, InfraError, StackError
from infra.safety import is_loopback, refuse_aws, require_local
from infra.stack.endpoints import Endpoints
from infra.stack.open import endpoints_in, open_stack
from records.aws_hosts import is_aws_endpoint

AWS = [
    "https://kinesis.us-east-1.amazonaws.com",
    "https://KINESIS.us-east-1.AMAZONAWS.COM.",
    "kinesis.us-east-1.amazonaws.com:443",
    "https://kinesis.cn-north-1.amazonaws.com.cn",
    "https://kinesis.us-east-1.api.aws/path?x=1",
    "https://user:pw@sqs.eu-west-1.amazonaws.com:443/queue",
    "wss://a1b2-ats.iot.eu-central-1.amazonaws.com/mqtt",
]
LOCAL = [
    "http://127.0.0.1:4566",
    "http://localhost:4566",
    "http://localhost.localstack.cloud:4566",
    "http://localstack:4566",
    "http://amazonaws.com.example.org",
    "http://notamazonaws.com",
    "http://127.0.0.1/amazonaws.com",
    "http://[::1]:4566",
]


@pytest.mark.parametrize("url", AWS)
def test_aws_is_seen_in_every_spelling(url: str):
    assert is_aws_endpoint(url)


@pytest.mark.parametrize("url", LOCAL)
def test_what_only_looks_like_aws_is_not(url: str):
    assert not is_aws_endpoint(url)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.8.8.8", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback(url: str, *, loopback: bool):
    assert is_loopback(url) is loopback


def test_no_endpoint_is_refused_with_the_way_out():
    with pytest.raises(AwsRefusedError, match=r"kit up.*--stack aws"):
        require_local({"AWS_ACCESS_KEY_ID": "AKIA", "AWS_PROFILE": "prod"})


def test_an_ignored_endpoint_is_no_endpoint():
    environ = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:4566",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE",
    }
    with pytest.raises(AwsRefusedError, match="AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        require_local(environ)


def test_one_service_at_aws_is_enough_to_refuse():
    environ = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:4566",
        "AWS_ENDPOINT_URL_DYNAMODB": "https://dynamodb.us-east-1.amazonaws.com",
    }
    with pytest.raises(AwsRefusedError, match="AWS_ENDPOINT_URL_DYNAMODB leads to AWS"):
        require_local(environ)


@pytest.mark.parametrize("url", ["127.0.0.1:4566", "ftp://127.0.0.1", "http://", "nonsense"])
def test_an_endpoint_must_be_a_url(url: str):
    with pytest.raises(AwsRefusedError, match="not an http"):
        refuse_aws(url, "AWS_ENDPOINT_URL")


def test_a_local_environment_becomes_endpoints():
    endpoints = endpoints_in(
        {"AWS_ENDPOINT_URL": "http://localstack:4566", "MQTT_URL": "mqtt://a:b@broker:1883"}
    )
    assert endpoints == Endpoints(
        aws="http://localstack:4566",
        kinesis="http://localstack:4566",
        mqtt_url="mqtt://a:b@broker:1883",
    )


def test_the_environment_stack_refuses_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://kinesis.us-east-1.amazonaws.com")
    with pytest.raises(AwsRefusedError), open_stack("environment", log_dir=tmp_path):
        pytest.fail("it must not open")


def test_the_aws_stack_refuses_an_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    with pytest.raises(StackError, match="AWS_ENDPOINT_URL"), open_stack("aws", log_dir=tmp_path):
        pytest.fail("it must not open")


def test_the_aws_stack_leaves_the_environment_to_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with open_stack("aws", log_dir=tmp_path) as endpoints:
        assert endpoints == Endpoints(aws=None, kinesis=None, mqtt_url=None)
        assert endpoints.environment() == {}
        assert endpoints.applied_to({"AWS_PROFILE": "prod"}) == {"AWS_PROFILE": "prod"}


def test_an_unknown_stack_names_the_known_ones(tmp_path: Path):
    with pytest.raises(ValueError, match="embedded, containers, environment, aws"):
        open_stack("production", log_dir=tmp_path)


def test_a_local_stack_lets_no_aws_setting_through():
    ambient = {
        "PATH": "/bin",
        "AWS_PROFILE": "prod",
        "AWS_SESSION_TOKEN": "secret",
        "AWS_ENDPOINT_URL_DYNAMODB": "https://dynamodb.us-east-1.amazonaws.com",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    }
    endpoints = Endpoints(aws="http://127.0.0.1:1", kinesis="http://127.0.0.1:2", mqtt_url=None)
    child = endpoints.applied_to(ambient)
    assert child["PATH"] == "/bin"
    assert child["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert child["AWS_ENDPOINT_URL_KINESIS"] == "http://127.0.0.1:2"
    assert child["AWS_ACCESS_KEY_ID"] == "test"
    assert "MQTT_URL" not in child
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_DYNAMODB"} & set(child)
    assert require_local(child) == "http://127.0.0.1:1"


def test_the_password_of_the_broker_is_not_printed():
    assert "hunter2" not in repr(Endpoints(None, None, "mqtt://toolkit:hunter2@127.0.0.1:1"))


def test_the_errors_are_one_tree_and_the_docstring_draws_it():
    kinds = InfraError.__subclasses__()
    assert 1 <= len(kinds) <= 5
    for kind in kinds:
        assert kind.__name__ in (InfraError.__doc__ or "")
        assert isinstance(kind.retriable, bool)
