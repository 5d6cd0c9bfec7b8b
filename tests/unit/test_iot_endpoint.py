import pytest

from iot.endpoint import Endpoint
from iot.errors import ConnectionRefused, ConnectionUnready, InvalidEndpoint, ShadowRequestError


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("mqtt://broker", Endpoint("broker", 1883)),
        ("mqtt://broker/", Endpoint("broker", 1883)),
        ("mqtts://broker", Endpoint("broker", 8883, tls=True)),
        ("mqtt://u:p@127.0.0.1:18", Endpoint("127.0.0.1", 18, "u", "p")),
        ("mqtt://u%40x:p%3a%2F@[::1]:18", Endpoint("::1", 18, "u@x", "p:/")),
        ("mqtt://u@broker", Endpoint("broker", 1883, "u", None)),
    ],
)
def test_urls(url: str, endpoint: Endpoint):
    assert Endpoint.parse(url) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://u:secret@:1",
        "mqtt://u:secret@broker:x",
        "mqtt://u:secret@broker:0",
        "mqtt://u:secret@broker:70000",
        "mqtt://u:secret@broker/path",
        "mqtt://u:secret@broker?x=1",
        # A password that was not percent-encoded is taken for the port.
        "mqtt://u:secret/x@broker",
        "mqtt://u:secret#x@broker",
        "mqtt://u:secret?x@broker",
        # Names that no resolver would even be asked for.
        "mqtt://u:secret@a..b",
        f"mqtt://u:secret@{'x' * 64}",
    ],
)
def test_bad_urls_are_refused_without_repeating_the_password(url: str):
    with pytest.raises(InvalidEndpoint) as refused:
        Endpoint.parse(url)
    assert "secret" not in str(refused.value)


def test_the_password_is_not_shown():
    endpoint = Endpoint.parse("mqtt://u:secret@broker")
    assert "secret" not in f"{endpoint} {endpoint!r}"


def test_retriable():
    assert not ConnectionRefused("no").retriable
    assert ConnectionUnready("later").retriable
    for code, retriable in ((409, False), (404, False), (429, True), (500, True), (None, True)):
        assert ShadowRequestError("", code=code).retriable is retriable
