"""The shadow service: answers, versions, errors; and every defect that emulators are known for."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot.shadows.protocol import Limits
from iot.shadows.store import TOMBSTONE_SECONDS
from tests.shadow_conversation import CLASSIC, T0, Conversation, close_stores, memory


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    yield
    close_stores()


@pytest.fixture
def shadow() -> Conversation:
    return Conversation()


class TestAnswers:
    def test_the_first_update_makes_version_1(self, shadow: Conversation):
        answers = shadow.update({"desired": {"a": {"b": 1}}}, clientToken="k")
        stamp = {"timestamp": T0}
        assert answers == {
            "update/accepted": {
                "state": {"desired": {"a": {"b": 1}}},
                "metadata": {"desired": {"a": {"b": stamp}}},
                "version": 1,
                "timestamp": T0,
                "clientToken": "k",
            },
            "update/delta": {
                "state": {"a": {"b": 1}},
                "metadata": {"a": {"b": stamp}},
                "version": 1,
                "timestamp": T0,
                "clientToken": "k",
            },
            "update/documents": {
                "previous": None,
                "current": {
                    "state": {"desired": {"a": {"b": 1}}},
                    "metadata": {"desired": {"a": {"b": stamp}}},
                    "version": 1,
                },
                "timestamp": T0,
                "clientToken": "k",
            },
        }

    def test_accepted_repeats_the_request_and_not_the_document(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        accepted = shadow.update({"desired": {"b": None}, "reported": {"a": 2}})["update/accepted"]
        stamp = {"timestamp": T0}
        assert accepted["state"] == {"desired": {"b": None}, "reported": {"a": 2}}
        assert accepted["metadata"] == {"desired": {"b": stamp}, "reported": {"a": stamp}}
        assert "clientToken" not in accepted

    def test_get_has_delta_and_its_metadata(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1, "b": 2}})
        shadow.now += 5
        shadow.update({"reported": {"a": 1}})
        shadow.now += 5
        stamp = {"timestamp": T0}
        assert shadow.get() == {
            "state": {"desired": {"a": 1, "b": 2}, "reported": {"a": 1}, "delta": {"b": 2}},
            "metadata": {
                "desired": {"a": stamp, "b": stamp},
                "reported": {"a": {"timestamp": T0 + 5}},
                "delta": {"b": stamp},
            },
            "version": 2,
            "timestamp": T0 + 10,
        }

    def test_get_echoes_the_token(self, shadow: Conversation):
        shadow.update({"reported": {"a": 1}})
        assert shadow.ask("get", {"clientToken": "k"})["get/accepted"]["clientToken"] == "k"
        missing = shadow.ask("get", {"clientToken": "k"}, prefix="$aws/things/no/shadow")
        assert missing["get/rejected"]["clientToken"] == "k"

    def test_documents_have_both_versions_and_no_delta(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        documents = shadow.update({"reported": {"a": 0}})["update/documents"]
        assert documents["previous"]["version"] == 1
        assert documents["previous"]["state"] == {"desired": {"a": 1}}
        assert documents["current"]["version"] == 2
        assert documents["current"]["state"] == {"desired": {"a": 1}, "reported": {"a": 0}}
        assert documents["current"].keys() == {"state", "metadata", "version"}

    def test_no_delta_message_in_sync(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        assert "update/delta" not in shadow.update({"reported": {"a": 1}})

    def test_the_delta_comes_with_every_update_and_is_whole(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1, "b": 2}})
        answers = shadow.update({"reported": {"other": 1}})
        assert answers["update/delta"]["state"] == {"a": 1, "b": 2}

    def test_an_empty_shadow_has_empty_state(self, shadow: Conversation):
        shadow.update({"desired": {}})
        empty = shadow.get()
        assert empty["state"] == {}
        assert empty["metadata"] == {}

    def test_state_null_clears(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}, "reported": {"a": 1}})
        accepted = shadow.update(None)["update/accepted"]
        assert accepted["state"] is None
        assert accepted["metadata"] == {"timestamp": T0}
        assert shadow.get()["state"] == {}
        assert shadow.get()["version"] == 2

    def test_state_empty_changes_nothing_but_the_version(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        shadow.update({})
        assert shadow.get()["state"]["desired"] == {"a": 1}
        assert shadow.get()["version"] == 2

    def test_other_topics_are_no_requests(self, shadow: Conversation):
        for topic in (
            "dt/fleet/lamp/telemetry",
            f"{CLASSIC}/update/accepted",
            f"{CLASSIC}/list",
            "$aws/things/lamp/shadow/name/x/update/delta",
            "$aws/things/lamp/shadow/x/update",
        ):
            assert shadow.service.handle(topic, b"{}") == []


class TestVersions:
    def test_every_update_counts_one_even_if_nothing_changes(self, shadow: Conversation):
        for version in (1, 2, 3):
            accepted = shadow.update({"reported": {"a": 1}})["update/accepted"]
            assert accepted["version"] == version

    def test_the_current_version_is_accepted_another_is_a_conflict(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        shadow.update({"desired": {"a": 2}}, version=1)
        body = {"state": {"desired": {"a": 3}}, "version": 1, "clientToken": "k"}
        assert shadow.rejected("update", body) == (409, "Version conflict")
        assert shadow.ask("update", body)["update/rejected"]["clientToken"] == "k"
        assert shadow.get()["state"]["desired"] == {"a": 2}
        assert shadow.get()["version"] == 2

    def test_a_rejected_update_counts_nothing(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        shadow.rejected("update", {"state": 5})
        assert shadow.get()["version"] == 1

    def test_the_version_survives_deletion(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        shadow.update({"desired": {"a": 2}})
        answers = shadow.ask("delete", {"clientToken": "k"})
        expected = {"version": 2, "timestamp": T0, "clientToken": "k"}
        assert answers == {"delete/accepted": expected}
        assert shadow.rejected("get", None)[0] == 404
        assert shadow.rejected("delete", None)[0] == 404
        shadow.now += TOMBSTONE_SECONDS - 1
        assert shadow.update({"desired": {"b": 1}})["update/accepted"]["version"] > 2
        assert shadow.get()["state"]["desired"] == {"b": 1}

    def test_after_48_hours_it_starts_over(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        shadow.update({"desired": {"a": 1}})
        shadow.ask("delete")
        shadow.now += TOMBSTONE_SECONDS
        assert shadow.update({"desired": {"a": 1}})["update/accepted"]["version"] == 1

    def test_previous_is_null_after_deletion(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        shadow.ask("delete")
        assert shadow.update({"desired": {"a": 1}})["update/documents"]["previous"] is None

    def test_a_version_for_a_shadow_that_is_not_there(self, shadow: Conversation):
        body = {"state": {"desired": {"a": 1}}, "version": 7}
        assert shadow.rejected("update", body) == (400, "Invalid version")
        assert shadow.update({"desired": {"a": 1}}, version=1)["update/accepted"]["version"] == 1
        shadow.ask("delete")
        body["version"] = 1
        assert shadow.rejected("update", body) == (409, "Version conflict")


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = {"k": value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("payload", "code", "message"),
    [
        (b"{", 400, "Invalid JSON"),
        (b"", 400, "Invalid JSON"),
        (b'{"state":{"desired":{"a":NaN}}}', 400, "Invalid JSON"),
        (b'{"state":{"desired":{"a":1e999}}}', 400, "Invalid JSON"),
        (b'{"state":{"desired":{"a":"\\ud800"}}}', 400, "Invalid JSON"),
        (b"[" * 100_000, 400, "JSON contains too many levels of nesting; maximum is 8"),
        (b'{"state":{"desired":{"a":' + b"9" * 5000 + b"}}}", 400, "Invalid JSON"),
        (b'\xef\xbb\xbf{"state":{}}', 400, "Invalid JSON"),
        (b'{"state":{}}{"state":{}}', 400, "Invalid JSON"),
        (b"null", 400, "Missing required node: state"),
        (b"[]", 400, "Missing required node: state"),
        (b"{}", 400, "Missing required node: state"),
        (b'{"clientToken":"k"}', 400, "Missing required node: state"),
        (b'{"state":5}', 400, "State node must be an object"),
        (b'{"state":[]}', 400, "State node must be an object"),
        (b'{"state":{"desired":5}}', 400, "Desired node must be an object"),
        (b'{"state":{"desired":[]}}', 400, "Desired node must be an object"),
        (b'{"state":{"reported":"x"}}', 400, "Reported node must be an object"),
        (b'{"state":{"foo":{}}}', 400, "State contains an invalid node"),
        (b'{"state":{"delta":{"a":1}}}', 400, "State contains an invalid node"),
        (b'{"state":{"desired":{"a":[1,null]}}}', 400, "State contains an invalid node"),
        (b'{"state":{"desired":{"a":[[null]]}}}', 400, "State contains an invalid node"),
        (b'{"state":{"reported":{"a":[{"b":null}]}}}', 400, "State contains an invalid node"),
        (b'{"state":{},"version":"1"}', 400, "Invalid version"),
        (b'{"state":{},"version":1.0}', 400, "Invalid version"),
        (b'{"state":{},"version":true}', 400, "Invalid version"),
        (b'{"state":{},"clientToken":5}', 400, "Invalid clientToken"),
        (b'{"state":{},"clientToken":"' + b"k" * 65 + b'"}', 400, "Invalid clientToken"),
        ('{"state":{},"clientToken":"' + "é" * 33 + '"}', 400, "Invalid clientToken"),
        (b'{"state":{"desired":{"a":"\xff"}}}', 415, None),
        ('{"state":{}}'.encode("utf-16"), 415, None),
        (b'{"state":{"desired":{"a":"' + b"x" * 131072 + b'"}}}', 413, None),
    ],
)
def test_bad_updates(payload: bytes | str, code: int, message: str | None):
    raw = payload if isinstance(payload, bytes) else payload.encode()
    answer = Conversation().rejected("update", raw)
    assert answer[0] == code
    assert message in {None, answer[1]}


class TestErrors:
    def test_the_token_is_echoed_when_it_is_valid(self, shadow: Conversation):
        answer = shadow.ask("update", {"state": 5, "clientToken": "k" * 64})["update/rejected"]
        assert answer["clientToken"] == "k" * 64
        answer = shadow.ask("update", {"state": {}, "clientToken": "k" * 65})["update/rejected"]
        assert "clientToken" not in answer

    def test_no_shadow(self, shadow: Conversation):
        assert shadow.rejected("get", None) == (404, "No shadow exists with name: lamp")
        assert shadow.rejected("delete", None) == (404, "No shadow exists with name: lamp")
        named = f"{CLASSIC}/name/config"
        expected = (404, "No shadow exists with name: config")
        assert shadow.rejected("get", None, prefix=named) == expected

    def test_bad_get_payload(self, shadow: Conversation):
        shadow.update({"reported": {"a": 1}})
        assert shadow.rejected("get", b"{") == (400, "Invalid JSON")
        assert shadow.rejected("get", b"5") == (400, "Invalid JSON")

    def test_the_payload_of_a_delete_is_ignored(self, shadow: Conversation):
        shadow.update({"reported": {"a": 1}})
        assert "delete/accepted" in shadow.ask("delete", b"\xff not json")

    @pytest.mark.parametrize("thing", ["", "a b", "x" * 129, "é", "a+b".replace("+", "%")])
    def test_bad_thing_names(self, shadow: Conversation, thing: str):
        prefix = f"$aws/things/{thing}/shadow"
        assert shadow.rejected("update", {"state": {}}, prefix=prefix)[0] == 400

    @pytest.mark.parametrize("name", ["", "a b", "x" * 65])
    def test_bad_shadow_names(self, shadow: Conversation, name: str):
        prefix = f"{CLASSIC}/name/{name}"
        assert shadow.rejected("update", {"state": {}}, prefix=prefix)[0] == 400

    def test_depth(self):
        at_six = Conversation(limits=Limits(depth=6))
        assert "update/accepted" in at_six.update({"desired": nested(6)})
        code, message = at_six.rejected("update", {"state": {"reported": nested(7)}})
        assert (code, message) == (400, "JSON contains too many levels of nesting; maximum is 6")
        assert "update/accepted" in Conversation().update({"desired": nested(8)})
        assert Conversation().rejected("update", {"state": {"desired": nested(9)}})[0] == 400

    @pytest.mark.parametrize("levels", [100, 400, 500, 700, 980, 990, 5_000])
    @pytest.mark.parametrize(("opening", "closing"), [(b'{"k":', b"}"), (b"[", b"]")])
    def test_no_depth_is_too_much_for_the_service(
        self, levels: int, opening: bytes, closing: bytes
    ):
        """Interpreter and parser each have a limit of their own; neither may answer with 500."""
        value = opening * levels + b"1" + closing * levels
        body = b'{"state":{"desired":{"a":' + value + b'}},"clientToken":"k"}'
        code, message = Conversation().rejected("update", body)
        assert (code, message) == (400, "JSON contains too many levels of nesting; maximum is 8")

    def test_the_size_of_the_merged_document_counts_and_its_metadata_does_not(
        self, shadow: Conversation
    ):
        frame = len('{"desired":{"a":""},"reported":{"b":""}}')
        half = 4000
        shadow.update({"desired": {"a": "x" * half}})
        rest = 8192 - frame - half
        too_large = {"state": {"reported": {"b": "y" * (rest + 1)}}}
        assert shadow.rejected("update", too_large) == (
            413,
            "The payload exceeds the maximum size allowed",
        )
        assert shadow.get()["version"] == 1
        assert "update/accepted" in shadow.update({"reported": {"b": "y" * rest}})

    def test_many_small_leaves_fit_although_their_metadata_would_not(self, shadow: Conversation):
        assert "update/accepted" in shadow.update({"desired": {f"{i:03}": 1 for i in range(800)}})

    def test_a_broken_store_is_an_internal_failure_and_the_service_goes_on(self):
        store = memory()
        conversation = Conversation(store)
        store.close()
        expected = (500, "Internal service failure")
        assert conversation.rejected("update", {"state": {}}) == expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["desired", "reported"]),
            st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 2), max_size=3),
            st.none() | st.integers(1, 6),
        ),
        max_size=8,
    )
)
@settings(max_examples=100, deadline=None)
def test_version_counts_accepted_updates_and_get_agrees_with_documents(
    updates: list[tuple[str, dict[str, int | None], int | None]],
):
    conversation = Conversation()
    version = 0
    for section, patch, expected in updates:
        body: dict[str, Any] = {"state": {section: patch}}
        if expected is not None:
            body["version"] = expected
        answers = conversation.ask("update", body)
        if "update/rejected" in answers:
            assert expected not in {None, version}
            continue
        version += 1
        current = answers["update/documents"]["current"]
        assert current["version"] == answers["update/accepted"]["version"] == version
        got = conversation.get()
        difference = got["state"].pop("delta", None)
        assert got["state"] == current["state"]
        assert difference == answers.get("update/delta", {}).get("state")
    assert (conversation.get()["version"] if version else 0) == version
