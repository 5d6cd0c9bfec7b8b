"""How AWS words what is wrong with a request: the refusals of a request for itself alone."""

from typing import Final

from infra.proxy.messages import Refusal

GREATER: Final = "greater than or equal to "
LESS: Final = "less than or equal to "
NOT_NULL: Final = "Member must not be null"

_SHOWN_CHARS: Final = 300


def invalid(value: str, place: str, constraint: str) -> Refusal:
    """Return the refusal of a value that does not keep a constraint.

    Args:
        value: Such as `Value 'x'`.
        place: Where it stands, such as `records.1.member.data`.
        constraint: The constraint, as AWS words it.
    """
    return Refusal(
        "ValidationException",
        f"1 validation error detected: {value} at '{place}' failed to satisfy constraint:"
        f" {constraint}",
    )


def invalid_argument(message: str) -> Refusal:
    """Return the refusal of a request that has the right form but cannot be meant."""
    return Refusal("InvalidArgumentException", message)


def serialization(message: str) -> Refusal:
    """Return the refusal of a request of which a member has another type."""
    return Refusal("SerializationException", message)


def at_least(length: int) -> str:
    """Return the constraint of a length that is too small."""
    return f"Member must have length {GREATER}{length}"


def at_most(length: int) -> str:
    """Return the constraint of a length that is too great."""
    return f"Member must have length {LESS}{length}"


def shown(text: str) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
