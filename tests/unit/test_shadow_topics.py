"""Which topics are requests to the shadow service, and which are its own."""

import pytest

from iot.shadows.protocol import SUBSCRIPTIONS, ShadowName, parse_topic


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("$aws/things/lamp/shadow/get", (ShadowName("lamp"), "get")),
        ("$aws/things/lamp/shadow/name/x/update", (ShadowName("lamp", "x"), "update")),
        ("$aws/things/lamp/shadow/name/x/update/accepted", None),
        ("$aws/things/lamp/shadow/name/get", None),
        ("$aws/things/lamp/jobs/get", None),
    ],
)
def test_topics(topic: str, expected: tuple[ShadowName, str] | None):
    assert parse_topic(topic) == expected


def test_no_subscription_matches_the_service_s_own_answers():
    from paho.mqtt.client import topic_matches_sub  # noqa: PLC0415 - only here

    for prefix in ("$aws/things/t/shadow", "$aws/things/t/shadow/name/n"):
        for operation in ("get", "update", "delete"):
            request = f"{prefix}/{operation}"
            assert any(topic_matches_sub(each, request) for each in SUBSCRIPTIONS)
            for answer in ("accepted", "rejected", "delta", "documents"):
                topic = f"{request}/{answer}"
                matched = [each for each in SUBSCRIPTIONS if topic_matches_sub(each, topic)]
                assert not matched or parse_topic(topic) is None
