"""The properties file, read back by the rules of java.util.Properties."""

import re
from dataclasses import replace

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.errors import SetupError
from consumers.kcl.__main__ import configured_endpoints
from consumers.kcl.properties import Endpoints, WorkerSettings, build

SETTINGS = WorkerSettings(
    stream="orders",
    application="billing",
    worker_id="slot-0",
    region="eu-central-1",
    command="/bin/sh child.sh",
)


def read_back(text: str) -> dict[str, str]:
    """Read a properties file as the documentation of java.util.Properties.load says."""
    values: dict[str, str] = {}
    for line in text.encode("iso-8859-1").decode("iso-8859-1").split("\n"):
        line = line.lstrip(" \t\f")  # noqa: PLW2901 - the natural line, step by step
        if not line or line[0] in "#!":
            continue
        found = re.match(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", line, re.DOTALL)
        assert found
        values[_unescape(found[1])] = _unescape(found[2])
    return values


def _unescape(text: str) -> str:
    units = re.sub(
        r"\\u([0-9a-f]{4})|\\(.)",
        lambda m: chr(int(m[1], 16)) if m[1] else {"t": "\t", "n": "\n", "r": "\r"}.get(m[2], m[2]),
        text,
    )
    return units.encode("utf-16-be", "surrogatepass").decode("utf-16-be")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_value_is_read_as_it_was_meant(text: str) -> None:
    written = build(replace(SETTINGS, worker_id=text, overrides={"a b=c:d": text}))
    assert written.isascii()
    values = read_back(written)
    assert values["workerId"] == text
    assert values["a b=c:d"] == text


def test_what_a_local_worker_is_told() -> None:
    endpoints = Endpoints("http://localhost:1", "http://localhost:2", "http://localhost:3")
    values = read_back(build(replace(SETTINGS, tuning="local", endpoints=endpoints)))
    assert values == {
        "executableName": "/bin/sh child.sh",
        "applicationName": "billing",
        "streamName": "orders",
        "workerId": "slot-0",
        "regionName": "eu-central-1",
        "initialPositionInStream": "TRIM_HORIZON",
        "AwsCredentialsProvider": "DefaultCredentialsProvider",
        "processingLanguage": "python",
        "shutdownGraceMillis": "20000",
        "retrievalMode": "POLLING",
        "failoverTimeMillis": "3000",
        "leaseAssignmentIntervalMillis": "1000",
        "shardSyncIntervalMillis": "500",
        "parentShardPollIntervalMillis": "1000",
        "workerMetricsReporterFreqInMillis": "500",
        "idleTimeBetweenReadsInMillis": "250",
        "metricsLevel": "NONE",
        "kinesisEndpoint": "http://localhost:1",
        "dynamoDBEndpoint": "http://localhost:2",
        "cloudWatchClient.endpointOverride": "http://localhost:3",
    }


def test_production_leaves_endpoints_to_the_sdk_and_leases_their_time() -> None:
    values = read_back(build(SETTINGS))
    assert not any("ndpoint" in key for key in values)
    assert values["failoverTimeMillis"] == "10000"
    assert int(values["shutdownGraceMillis"]) > 0


def test_overrides_win_and_nothing_is_written_twice() -> None:
    text = build(replace(SETTINGS, overrides={"failoverTimeMillis": "7", "maxRecords": "5"}))
    values = read_back(text)
    assert (values["failoverTimeMillis"], values["maxRecords"]) == ("7", "5")
    assert text.count("\n") == len(values)


@pytest.mark.parametrize(
    "change", [{"application": "a"}, {"application": "with space"}, {"command": "a  b"}]
)
def test_what_kcl_would_misread_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(SetupError):
        build(replace(SETTINGS, **change))  # type: ignore[arg-type] # every field of these is text


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Endpoints()),
        ({"AWS_ENDPOINT_URL": "http://a"}, Endpoints("http://a", "http://a", "http://a")),
        (
            {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_KINESIS": "http://k"},
            Endpoints("http://k", "http://a", "http://a"),
        ),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "http://d"}, Endpoints(None, "http://d", None)),
        (
            {"AWS_ENDPOINT_URL": "http://a", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            Endpoints(),
        ),
    ],
)
def test_endpoints_are_resolved_as_boto3_does(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: Endpoints
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KINESIS", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert configured_endpoints(botocore.session.Session()) == expected
    # And boto3's own clients agree.
    session = botocore.session.Session()
    for service in ("kinesis", "dynamodb", "cloudwatch"):
        client = session.create_client(
            service,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        configured = getattr(expected, service)
        if configured:
            assert client.meta.endpoint_url == configured
        else:
            assert client.meta.endpoint_url.endswith("amazonaws.com")
        client.close()
