"""How large an item is to DynamoDB, and how many capacity units it costs to write or read.

Items are in the form of the API: `{"id": {"S": "a"}, "count": {"N": "3"}}`.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from math import ceil
from typing import Any, Final

from infra.proxy.messages import MalformedBodyError, data_bytes
from records.limits import KIB

_CONTAINER_BYTES: Final = 3
_ELEMENT_BYTES: Final = 1
_MAX_NUMBER_BYTES: Final = 21

# AWS: DynamoDB Developer Guide, Quotas, "Nested attribute depth".
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
_MAX_DEPTH: Final = 32


def item_bytes(item: Any) -> int:
    """Return the size of an item, or of its key: the names of its attributes and their values.

    AWS: DynamoDB Developer Guide, DynamoDB item sizes and formats.
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html

    Raises:
        MalformedBodyError: It is no map of names to attribute values.
    """
    if not isinstance(item, Mapping):
        raise MalformedBodyError(f"an item is a map, not {type(item).__name__}")
    return sum(_text_bytes(name) + value_bytes(value) for name, value in item.items())


def value_bytes(value: Any, depth: int = 0) -> int:
    """Return the size of an attribute value such as `{"S": "a"}`, without its name.

    Args:
        value: The attribute value.
        depth: How many lists and maps it is in.

    Raises:
        MalformedBodyError: It is no attribute value.
    """
    if depth > _MAX_DEPTH:
        raise MalformedBodyError(f"an item is nested at most {_MAX_DEPTH} levels deep")
    match value:
        case {"L": [*elements]}:
            return _container_bytes(elements, depth)
        case {"M": {**members}}:
            return sum(map(_text_bytes, members)) + _container_bytes(members.values(), depth)
    return _flat_bytes(value)


def write_units(size: int) -> int:
    """Return what it costs to write an item: a unit for each KiB begun, at least one.

    AWS: DynamoDB Developer Guide, DynamoDB provisioned capacity mode, "Write capacity units".
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/provisioned-capacity-mode.html

    Args:
        size: The item's bytes.
    """
    return max(1, ceil(size / KIB))


def read_units(size: int, *, consistent: bool) -> float:
    """Return what a read costs: a unit for each 4 KiB begun, at least one; or half of that.

    AWS: DynamoDB Developer Guide, DynamoDB provisioned capacity mode, "Read capacity units".
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/provisioned-capacity-mode.html

    Args:
        size: The bytes of an item, or of all items of a Query or Scan together.
        consistent: Whether the read is strongly consistent; half is for one that is not.
    """
    units = max(1, ceil(size / (4 * KIB)))
    return float(units) if consistent else units / 2


def _flat_bytes(value: Any) -> int:
    match value:
        case {"S": text}:
            return _text_bytes(text)
        case {"N": number}:
            return _number_bytes(number)
        case {"B": binary}:
            return data_bytes(binary)
        case {"BOOL": _} | {"NULL": _}:
            return 1
        case {"SS": [*members]} | {"NS": [*members]} | {"BS": [*members]} if len(value) == 1:
            (kind,) = value
            return sum(_flat_bytes({kind[0]: member}) for member in members)
    raise MalformedBodyError("an attribute value has one of DynamoDB's types")


def _container_bytes(elements: Iterable[Any], depth: int) -> int:
    return _CONTAINER_BYTES + sum(_ELEMENT_BYTES + value_bytes(e, depth + 1) for e in elements)


def _text_bytes(text: Any) -> int:
    if not isinstance(text, str):
        raise MalformedBodyError(f"a string is expected, not {type(text).__name__}")
    return len(text.encode("utf-8", "surrogatepass"))


def _number_bytes(number: Any) -> int:
    """AWS says "approximately" a byte for two significant digits and one more.

    What an engine or a bill shows besides is a byte for the minus sign and never more than 21.
    """
    try:
        sign, digits, exponent = Decimal(number).as_tuple()
    except (InvalidOperation, TypeError, ValueError):
        raise MalformedBodyError("a number is expected") from None
    if not isinstance(exponent, int):
        raise MalformedBodyError("a number is expected, not NaN or infinity")
    significant = len("".join(map(str, digits)).strip("0"))
    if not significant:
        return 1
    return min(_MAX_NUMBER_BYTES, (significant + 1) // 2 + 1 + sign)
