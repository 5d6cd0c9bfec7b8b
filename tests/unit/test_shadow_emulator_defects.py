"""Every defect that emulators of the shadow service are known for, as a case of ours."""

from collections.abc import Iterator

import pytest

from iot.shadows.store import open_store
from tests.shadow_conversation import CLASSIC, T0, Conversation


@pytest.fixture
def shadow() -> Iterator[Conversation]:
    with open_store(":memory:") as store:
        yield Conversation(store)


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
