"""What the shadow store remembers, for how long, and of whom."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from iot.shadows.protocol import ShadowName
from iot.shadows.store import TOMBSTONE_SECONDS, StoredShadow, open_store
from tests.shadow_conversation import T0, Conversation


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
