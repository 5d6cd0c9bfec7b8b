"""The shadow service: answers, versions, errors; and every defect that emulators are known for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot.shadows.protocol import SUBSCRIPTIONS, Limits, ShadowName, parse_topic
from iot.shadows.service import ShadowService
from iot.shadows.store import TOMBSTONE_SECONDS, SqliteShadowStore, StoredShadow, open_store

CLASSIC = "$aws/things/lamp/shadow"
T0 = 1_700_000_000


_opened: list[SqliteShadowStore] = []


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def memory() -> SqliteShadowStore:
    store = SqliteShadowStore(":memory:")
    _opened.append(store)
    return store


class Conversation:
    """A service, its clock, and what it answered last."""

    def __init__(
        self, store: SqliteShadowStore | None = None, limits: Limits | None = None
    ) -> None:
        self.now = T0
        self.service = ShadowService(store or memory(), clock=lambda: self.now + 0.9, limits=limits)

    def ask(self, operation: str, body: Any = None, *, prefix: str = CLASSIC) -> dict[str, Any]:
        """Send a request; return the answers by topic, the prefix left out."""
        raw = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        publications = self.service.handle(f"{prefix}/{operation}", raw)
        answers = {p.topic.removeprefix(prefix + "/"): json.loads(p.payload) for p in publications}
        assert len(answers) == len(publications)
        return answers

    def update(self, state: Any, **fields: Any) -> dict[str, Any]:
        return self.ask("update", {"state": state, **fields})

    def get(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("get")["get/accepted"]
        return answer

    def rejected(self, operation: str, body: Any, **more: Any) -> tuple[int, str]:
        answers = self.ask(operation, body, **more)
        assert list(answers) == [f"{operation}/rejected"]
        answer = answers[f"{operation}/rejected"]
        assert answer["timestamp"] == self.now
        return answer["code"], answer["message"]


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


class TestEmulatorDefects:
    """Each of these is wrong in at least one emulator."""

    def test_null_desired_leaves_no_metadata(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}, "reported": {"a": 1}})
        shadow.update({"desired": None})
        assert shadow.get()["state"] == {"reported": {"a": 1}}
        assert shadow.get()["metadata"].keys() == {"reported"}

    def test_true_is_not_one(self, shadow: Conversation):
        shadow.update({"desired": {"a": True}})
        assert shadow.update({"reported": {"a": 1}})["update/delta"]["state"] == {"a": True}

    def test_one_is_one_point_zero(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        assert "update/delta" not in shadow.update({"reported": {"a": 1.0}})

    def test_array_metadata_per_element(self, shadow: Conversation):
        shadow.update({"desired": {"a": [1, 2]}})
        stamp = {"timestamp": T0}
        assert shadow.get()["metadata"]["desired"] == {"a": [stamp, stamp]}

    def test_an_update_does_not_stamp_everything(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1, "b": 1}})
        shadow.now += 60
        shadow.update({"desired": {"b": 2}})
        stamps = shadow.get()["metadata"]["desired"]
        assert stamps == {"a": {"timestamp": T0}, "b": {"timestamp": T0 + 60}}

    def test_type_switch_leaves_no_stale_timestamp(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        shadow.update({"desired": {"a": {"b": 1}}})
        assert shadow.get()["metadata"]["desired"] == {"a": {"b": {"timestamp": T0}}}

    def test_nulls_in_a_new_subtree_are_not_stored(self, shadow: Conversation):
        shadow.update({"desired": {"a": {"b": None, "c": 1}}})
        assert shadow.get()["state"]["desired"] == {"a": {"c": 1}}

    def test_an_empty_object_is_kept(self, shadow: Conversation):
        shadow.update({"desired": {"a": {"b": 1}, "c": 3, "d": {}}})
        shadow.update({"desired": {"c": {}}})
        assert shadow.get()["state"]["desired"] == {"a": {"b": 1}, "c": {}, "d": {}}

    def test_the_token_is_in_delta_and_documents_too(self, shadow: Conversation):
        answers = shadow.update({"desired": {"a": 1}}, clientToken="k")
        assert [answer["clientToken"] for answer in answers.values()] == ["k", "k", "k"]

    def test_the_code_is_a_number(self, shadow: Conversation):
        assert type(shadow.ask("update", b"{")["update/rejected"]["code"]) is int

    def test_timestamps_are_whole_seconds(self, shadow: Conversation):
        answer = shadow.update({"desired": {"a": 1}})["update/accepted"]
        assert answer["timestamp"] == T0
        assert type(answer["timestamp"]) is int

    def test_deleting_does_not_count(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        assert shadow.ask("delete")["delete/accepted"]["version"] == 1

    def test_shadows_do_not_mix(self, shadow: Conversation):
        shadow.update({"desired": {"a": 1}})
        named = f"{CLASSIC}/name/config"
        answers = shadow.ask("update", {"state": {"desired": {"b": 1}}}, prefix=named)
        assert answers["update/accepted"]["version"] == 1
        assert shadow.get()["state"]["desired"] == {"a": 1}
        shadow.ask("delete", prefix=named)
        assert shadow.get()["version"] == 1


class TestStore:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "shadows.sqlite"

    @pytest.fixture
    def reopened(self, path: Path) -> Iterator[Conversation]:
        with open_store(path) as store:
            Conversation(store).update({"desired": {"a": [1.5, "é"]}})
        with open_store(path) as store:
            yield Conversation(store)

    def test_shadows_survive_a_restart(self, reopened: Conversation):
        assert reopened.get()["state"]["desired"] == {"a": [1.5, "é"]}
        assert reopened.get()["version"] == 1
        stamp = {"timestamp": T0}
        assert reopened.get()["metadata"]["desired"] == {"a": [stamp, stamp]}

    def test_so_does_the_memory_of_a_deleted_one(self, path: Path):
        with open_store(path) as store:
            conversation = Conversation(store)
            conversation.update({"desired": {"a": 1}})
            conversation.ask("delete")
        with open_store(path) as store:
            name = ShadowName("lamp")
            assert store.load(name, now=T0) == StoredShadow(1, T0, None)
            assert store.load(name, now=T0 + TOMBSTONE_SECONDS) is None

    def test_two_services_cannot_share_a_file(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        """Both would answer each request, and one undo what the other wrote since it read."""
        monkeypatch.setattr("iot.shadows.store.LOCK_SECONDS", 0.05)
        with open_store(path) as store:
            Conversation(store).update({"desired": {"a": 1}})
            with pytest.raises(OSError, match="locked"), open_store(path):
                pass
        with open_store(path) as store:
            assert Conversation(store).get()["version"] == 1

    def test_an_update_that_cannot_be_stored_is_rejected_and_changes_nothing(self, path: Path):
        with open_store(path) as store:
            shadow = Conversation(store)
            shadow.update({"desired": {"a": 1}})
            ((pages,),) = store._database.execute("PRAGMA page_count")
            store._database.execute(f"PRAGMA max_page_count={pages}")  # the disk is full
            body = {"state": {"desired": {"a": "x" * 8000}}, "clientToken": "k"}
            assert shadow.rejected("update", body) == (500, "Internal service failure")
            assert shadow.ask("update", body)["update/rejected"]["clientToken"] == "k"
            assert shadow.get()["state"]["desired"] == {"a": 1}
            store._database.execute(f"PRAGMA max_page_count={pages + 100}")
            assert shadow.ask("update", body)["update/accepted"]["version"] == 2

    def test_a_file_that_is_no_store_is_named(self, path: Path):
        path.write_text("this is not a database, and it is not to be overwritten")
        with pytest.raises(OSError, match=re.escape(f"{path}: file is not a database")):
            open_store(path).__enter__()
        with pytest.raises(OSError, match="unable to open"):
            open_store(path.parent).__enter__()


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
