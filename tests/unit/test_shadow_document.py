"""Merge, delta and metadata: laws, and the cases that emulators get wrong."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot.shadows.document import (
    JsonObject,
    ShadowDocument,
    deeper_than,
    delta,
    merge,
    project,
    same,
    stamped,
    without_nulls,
)

scalars = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab", max_size=2)
)
leaves = scalars.filter(lambda value: value is not None)
arrays = st.recursive(
    st.lists(leaves, max_size=3),
    lambda inner: st.lists(inner | st.dictionaries(st.sampled_from("xyz"), leaves), max_size=2),
    max_leaves=4,
)
keys = st.sampled_from("abcd")


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[JsonObject]:
    return st.recursive(
        st.dictionaries(keys, values, max_size=3),
        lambda inner: st.dictionaries(keys, values | inner, max_size=3),
        max_leaves=8,
    )


documents = objects(leaves | arrays)
patches = objects(scalars | arrays)


def document(patch: JsonObject, *more: JsonObject) -> ShadowDocument:
    made = ShadowDocument()
    for timestamp, each in enumerate((patch, *more), start=1):
        made = made.updated(each, timestamp=timestamp)
    return made


def assert_shaped(state: Any, metadata: Any) -> None:
    """Metadata has the shape of the state, with a timestamp where the state has a leaf."""
    if isinstance(state, dict):
        assert state.keys() == metadata.keys()
        for key, value in state.items():
            assert_shaped(value, metadata[key])
    elif isinstance(state, list):
        assert isinstance(metadata, list)
        assert len(state) == len(metadata)
        for value, stamp in zip(state, metadata, strict=True):
            assert_shaped(value, stamp)
    else:
        assert metadata.keys() == {"timestamp"}


class TestLaws:
    @given(documents, documents)
    @settings(max_examples=200)
    def test_reporting_the_delta_leaves_no_delta(self, desired: JsonObject, reported: JsonObject):
        before = document({"desired": desired}, {"reported": reported})
        difference, _ = before.delta()
        after = before.updated({"reported": difference}, timestamp=9)
        assert after.delta() == ({}, {})

    @given(documents)
    def test_no_delta_to_itself(self, desired: JsonObject):
        assert delta(desired, desired) == {}

    @given(documents, documents)
    @settings(max_examples=200)
    def test_the_delta_names_only_what_differs(self, desired: JsonObject, reported: JsonObject):
        def check(difference: JsonObject, wanted: JsonObject, have: JsonObject) -> None:
            for key, value in difference.items():
                if isinstance(value, dict) and isinstance(have.get(key), dict):
                    assert value, "an empty object says nothing"
                    check(value, wanted[key], have[key])
                else:
                    assert same(value, wanted[key])
                    assert key not in have or not same(value, have[key])

        check(delta(desired, reported), desired, reported)

    @given(documents, patches)
    @settings(max_examples=200)
    def test_metadata_follows_the_state(self, first: JsonObject, patch: JsonObject):
        made = document({"desired": first}, {"desired": patch})
        assert_shaped(made.state, made.metadata)
        difference, stamps = made.delta()
        assert_shaped(difference, stamps)

    @given(documents, patches)
    def test_merging_twice_is_merging_once(self, first: JsonObject, patch: JsonObject):
        once, _ = merge(first, stamped(first, 1), patch, timestamp=2)
        twice, _ = merge(once, stamped(once, 1), patch, timestamp=3)
        assert twice == once

    @given(documents, patches)
    def test_no_null_ever_gets_in(self, first: JsonObject, patch: JsonObject):
        def nulls(value: Any) -> bool:
            if isinstance(value, dict):
                return any(map(nulls, value.values()))
            return value is None

        merged, _ = merge(first, stamped(first, 1), patch, timestamp=2)
        assert not nulls(merged)

    @given(documents, patches)
    def test_what_was_given_is_not_changed(self, first: JsonObject, patch: JsonObject):
        before = document({"desired": first})
        copy = repr((before, patch))
        before.updated({"desired": patch}, timestamp=2)
        assert repr((before, patch)) == copy

    @given(documents, documents)
    def test_untouched_leaves_keep_their_timestamp(self, first: JsonObject, patch: JsonObject):
        other = {f"other-{key}": value for key, value in first.items()}
        _, stamps = merge(other, stamped(other, 1), patch, timestamp=2)
        assert {key: stamps[key] for key in other} == stamped(other, 1)

    @given(documents)
    def test_projection_on_itself_changes_nothing(self, state: JsonObject):
        assert project(stamped(state, 1), state) == stamped(state, 1)


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        pytest.param({"a": 1}, {"b": 2}, {"a": 1, "b": 2}, id="keys are added"),
        pytest.param({"a": 1, "b": 2}, {"a": None}, {"b": 2}, id="null deletes"),
        pytest.param({"a": 1}, {"b": None}, {"a": 1}, id="null for a missing key"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}, id="deep"),
        pytest.param({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}, id="arrays are replaced"),
        pytest.param({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}, id="scalar to object"),
        pytest.param({"a": {"b": 2}}, {"a": 1}, {"a": 1}, id="object to scalar"),
        pytest.param({"a": [1]}, {"a": {"b": 1}}, {"a": {"b": 1}}, id="array to object"),
        pytest.param({"a": {"b": 1}}, {"a": {"b": None}}, {"a": {}}, id="last leaf leaves {}"),
        pytest.param({}, {"a": {"b": None}}, {}, id="emptied by nulls, never created"),
        pytest.param({}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}, id="nulls in a new subtree"),
        pytest.param({}, {"a": {"b": {"c": None}}}, {}, id="emptied by nulls, two levels"),
        pytest.param({}, {"d": {}}, {"d": {}}, id="{} is kept when inserted"),
        pytest.param({"c": 3}, {"c": {}}, {"c": {}}, id="{} replaces a scalar"),
        pytest.param({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 1}}, id="{} into an object"),
    ],
)
def test_merge(before: JsonObject, patch: JsonObject, after: JsonObject):
    merged, stamps = merge(before, stamped(before, 1), patch, timestamp=2)
    assert merged == after
    assert_shaped(merged, stamps)


@pytest.mark.parametrize(
    ("desired", "reported", "difference"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {}, {"a": 1}),
        ({}, {"a": 1}, {}),
        ({"a": 1}, {"a": 1.0}, {}),
        ({"a": True}, {"a": 1}, {"a": True}),
        ({"a": 1}, {"a": True}, {"a": 1}),
        ({"a": [True]}, {"a": [1]}, {"a": [True]}),
        ({"a": [1, 2]}, {"a": [1, 3]}, {"a": [1, 2]}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1, 2]}),
        ({"a": [{"x": 1}]}, {"a": [{"x": 1.0}]}, {}),
        ({"a": [{"x": 1}]}, {"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a": {"c": 2}}),
        ({"a": {"b": 1}}, {"a": 5}, {"a": {"b": 1}}),
        ({"a": 5}, {"a": {"b": 1}}, {"a": 5}),
        ({"a": "1"}, {"a": 1}, {"a": "1"}),
        ({"a": {"b": {"c": {"d": 1}}}}, {"a": {"b": {"c": {}}}}, {"a": {"b": {"c": {"d": 1}}}}),
    ],
)
def test_delta(desired: JsonObject, reported: JsonObject, difference: JsonObject):
    assert same(delta(desired, reported), difference)


class TestMetadata:
    def test_only_touched_leaves_are_stamped_again(self):
        made = document({"desired": {"a": 1, "b": {"c": 2}}}, {"desired": {"b": {"d": 3}}})
        assert made.metadata["desired"] == {
            "a": {"timestamp": 1},
            "b": {"c": {"timestamp": 1}, "d": {"timestamp": 2}},
        }

    def test_the_same_value_again_is_touched(self):
        made = document({"desired": {"a": 1}}, {"desired": {"a": 1}})
        assert made.metadata["desired"] == {"a": {"timestamp": 2}}

    def test_an_array_has_one_entry_per_element(self):
        made = document({"desired": {"a": [1, [2], {"x": 3}]}})
        stamp = {"timestamp": 1}
        assert made.metadata["desired"] == {"a": [stamp, [stamp], {"x": stamp}]}

    def test_a_scalar_that_becomes_an_object_leaves_no_stamp_behind(self):
        made = document({"desired": {"a": 1}}, {"desired": {"a": {"b": 2}}})
        assert made.metadata["desired"] == {"a": {"b": {"timestamp": 2}}}

    def test_the_delta_has_the_timestamps_of_desired(self):
        made = document({"desired": {"a": {"b": 1, "c": 1}}}, {"reported": {"a": {"c": 1}}})
        assert made.delta() == ({"a": {"b": 1}}, {"a": {"b": {"timestamp": 1}}})


class TestSections:
    def test_null_removes_a_section_and_its_metadata(self):
        made = document({"desired": {"a": 1}, "reported": {"b": 1}}, {"desired": None})
        assert made.state == {"reported": {"b": 1}}
        assert made.metadata == {"reported": {"b": {"timestamp": 1}}}

    def test_null_state_removes_everything(self):
        made = document({"desired": {"a": 1}, "reported": {"b": 1}})
        assert made.updated(None, timestamp=2) == ShadowDocument()

    def test_empty_state_changes_nothing(self):
        made = document({"desired": {"a": 1}})
        assert made.updated({}, timestamp=2) == made

    def test_a_section_that_ends_up_empty_is_absent(self):
        assert document({"desired": {"a": 1}}, {"desired": {"a": None}}) == ShadowDocument()
        assert document({"desired": {}}) == ShadowDocument()


@pytest.mark.parametrize(
    ("value", "levels"), [({}, 1), ({"a": 1}, 1), ({"a": {"b": 1}}, 2), ({"a": [1, {"b": 2}]}, 3)]
)
def test_depth(value: JsonObject, levels: int):
    assert not deeper_than(value, levels)
    assert deeper_than(value, levels - 1)


def test_without_nulls_keeps_what_was_sent_empty():
    assert without_nulls({"a": {}, "b": {"c": None}}) == {"a": {}}
    assert without_nulls({"a": None}) is None
