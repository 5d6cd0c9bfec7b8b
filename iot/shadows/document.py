"""The shadow document: what an update makes of it, and what the device still has to do.

Pure functions over JSON values. No request, no version, no clock: :mod:`iot.shadows.service` adds
those.

A *section* is ``desired`` or ``reported``: a JSON object. Its *metadata* is an object of the same
shape in which every leaf is ``{"timestamp": epoch seconds}``; an array has one entry per element.

AWS: IoT Core, Device Shadow service documents; Device Shadow service, Interacting with shadows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

SECTIONS: Final = ("desired", "reported")

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShadowDocument:
    """The two sections of a shadow and the time at which each leaf was last written.

    Args:
        state: ``desired`` and ``reported``; a section that is empty is absent.
        metadata: The same sections, each leaf being ``{"timestamp": epoch seconds}``.

    Never changed in place: an update returns a new document that shares what it did not touch.
    """

    state: Mapping[str, JsonObject] = field(default_factory=dict)
    metadata: Mapping[str, JsonObject] = field(default_factory=dict)

    def updated(self, patch: Mapping[str, JsonObject | None] | None, *, timestamp: int) -> Self:
        """Return the document after an update.

        Args:
            patch: The ``state`` of an update request: sections to merge; a section that is None
                is removed; None instead of a mapping removes both.
            timestamp: Epoch seconds, for the leaves that the patch names.
        """
        if patch is None:
            return type(self)()
        state, metadata = dict(self.state), dict(self.metadata)
        for section, changes in patch.items():
            merged, stamps = (
                ({}, {})
                if changes is None
                else merge(
                    state.get(section, {}), metadata.get(section, {}), changes, timestamp=timestamp
                )
            )
            state[section], metadata[section] = merged, stamps
        kept = [section for section in SECTIONS if state.get(section)]
        return type(self)(
            {section: state[section] for section in kept},
            {section: metadata[section] for section in kept},
        )

    def delta(self) -> tuple[JsonObject, JsonObject]:
        """Return what is desired and not reported, and the metadata of exactly that."""
        difference = delta(self.state.get("desired", {}), self.state.get("reported", {}))
        return difference, project(self.metadata.get("desired", {}), difference)


def merge(
    state: JsonObject, metadata: JsonObject, patch: JsonObject, *, timestamp: int
) -> tuple[JsonObject, JsonObject]:
    """Merge a patch into a section and return the new section with its metadata.

    Objects are merged key by key. A key whose value is None is deleted; deleting the last key of an
    existing object leaves ``{}``. Anything else replaces what was there: arrays as a whole.
    Only leaves that the patch names get the new timestamp, also when their value stays the same.
    """
    merged, stamps = dict(state), dict(metadata)
    for key, value in patch.items():
        current = merged.get(key)
        if isinstance(value, dict) and isinstance(current, dict):
            merged[key], stamps[key] = merge(current, stamps[key], value, timestamp=timestamp)
            continue
        created = without_nulls(value)
        if created is None:
            merged.pop(key, None)
            stamps.pop(key, None)
        else:
            merged[key], stamps[key] = created, stamped(created, timestamp)
    return merged, stamps


def delta(desired: JsonObject, reported: JsonObject) -> JsonObject:
    """Return the part of ``desired`` that ``reported`` does not have, down to the differing leaves.

    Keys that are only in ``reported`` do not count. An array that differs anywhere is there as a
    whole, and so is a value whose type differs. ``{}`` means that the device has nothing to do.
    """
    difference: JsonObject = {}
    for key, wanted in desired.items():
        if key not in reported:
            difference[key] = wanted
        elif isinstance(wanted, dict) and isinstance(reported[key], dict):
            if nested := delta(wanted, reported[key]):
                difference[key] = nested
        elif not same(wanted, reported[key]):
            difference[key] = wanted
    return difference


def same(left: Any, right: Any) -> bool:
    """Compare two JSON values: 1 equals 1.0, but true does not equal 1 as it would in Python."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def stamped(value: Any, timestamp: int) -> Any:
    """Return metadata of the shape of ``value``, every leaf stamped. None counts as a leaf."""
    if isinstance(value, dict):
        return {key: stamped(item, timestamp) for key, item in value.items()}
    if isinstance(value, list):
        return [stamped(item, timestamp) for item in value]
    return {"timestamp": timestamp}


def project(metadata: JsonObject, shape: JsonObject) -> JsonObject:
    """Return the part of ``metadata`` that belongs to the keys of ``shape``."""
    return {
        key: project(metadata[key], value)
        if isinstance(value, dict) and isinstance(metadata[key], dict)
        else metadata[key]
        for key, value in shape.items()
    }


def deeper_than(value: Any, levels: int) -> bool:
    """Say whether a value has more levels than that, without going down any further.

    ``{"a": 1}`` has one level, ``{"a": {"b": 1}}`` and ``{"a": [1]}`` have two.
    """
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels < 1 or any(deeper_than(child, levels - 1) for child in children)


def without_nulls(value: Any) -> Any:
    """Return a new subtree without the keys that are None; None if that emptied it.

    An object that was sent as ``{}`` stays; one that holds nothing but nulls is never created.
    """
    if not isinstance(value, dict) or not value:
        return value
    kept = {key: item for key, raw in value.items() if (item := without_nulls(raw)) is not None}
    return kept or None
