"""What AWS' service model says of a request, and the first thing that a request does not keep.

AWS validates each request by its model before anything else looks at it. The model is botocore's,
so it knows of AWS what the installed botocore knows. Pure.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from botocore.loaders import create_loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StringShape, StructureShape

from infra.proxy.messages import Refusal
from infra.proxy.wording import GREATER, LESS, NOT_NULL, at_least, at_most, invalid, shown

_RECORDS: Final = "PutRecordsRequestEntryList"
"""Up to 500 records, which the quotas look at one by one."""


def find_fault(operation: str, parameters: Mapping[str, Any]) -> Refusal | None:
    """Return the first constraint of the model that a request breaks; None if it breaks none.

    Members that the model does not know, and values of another type than the model's, are left to
    the engine; so are blobs, whose maximum depends on the stream, and each record of PutRecords.

    AWS: Kinesis Data Streams API Reference, the data types and the parameters of each operation.
    https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Operations.html

    Args:
        operation: Any; one that the model does not know has no constraints.
        parameters: As on the wire.
    """
    shape = _input_shapes().get(operation)
    return None if shape is None else next(_structure_faults(shape, parameters, ""), None)


@cache
def _input_shapes() -> Mapping[str, StructureShape]:
    # Without type: the loader returns the JSON of the model.
    description: Any = create_loader().load_service_model("kinesis", "service-2")
    model = ServiceModel(description, "kinesis")
    shapes = {name: model.operation_model(name).input_shape for name in model.operation_names}
    return {name: shape for name, shape in shapes.items() if isinstance(shape, StructureShape)}


def _structure_faults(
    shape: StructureShape, value: Mapping[str, Any], prefix: str
) -> Iterator[Refusal]:
    for name, member in shape.members.items():
        place = f"{prefix}{name[0].lower()}{name[1:]}"
        given = value.get(name)
        if given is not None:
            yield from _faults(member, given, place)
        elif name in shape.required_members:
            yield invalid("Value null", place, NOT_NULL)


def _faults(shape: Shape, value: Any, place: str) -> Iterator[Refusal]:
    if broken := _broken(shape, value):
        yield invalid(_said(value), place, broken)
    elif isinstance(shape, StructureShape) and isinstance(value, dict):
        yield from _structure_faults(shape, value, f"{place}.")
    elif isinstance(shape, ListShape) and isinstance(value, list) and shape.name != _RECORDS:
        for number, entry in enumerate(value, 1):
            if isinstance(shape.member, StructureShape):
                yield from _faults(shape.member, entry, f"{place}.{number}.member")
            else:
                yield from _inner_faults("Member", shape.member, entry, value, place)
    elif isinstance(shape, MapShape) and isinstance(value, dict):
        for key, entry in value.items():
            yield from _inner_faults("Map keys", shape.key, key, value, place)
            yield from _inner_faults("Map value", shape.value, entry, value, place)


def _inner_faults(
    which: str, shape: Shape, value: Any, container: Any, place: str
) -> Iterator[Refusal]:
    """Yield what is wrong with a part that AWS names no place of its own."""
    if broken := _broken(shape, value):
        yield invalid(_said(container), place, f"{which} must satisfy constraint: [{broken}]")


def _broken(shape: Shape, value: Any) -> str:
    """Return which constraint a value itself breaks, empty if none; not what is inside of it."""
    if isinstance(shape, StringShape) and isinstance(value, str):
        if shape.enum:
            known = ", ".join(shape.enum)
            return "" if value in shape.enum else f"Member must satisfy enum value set: [{known}]"
        pattern = shape.metadata.get("pattern")
        return _length_broken(shape, len(value)) or _pattern_broken(pattern, value)
    if shape.type_name in ("list", "map") and isinstance(value, list | dict):
        return _length_broken(shape, len(value))
    if shape.type_name in ("integer", "long") and type(value) is int:
        least, most = shape.metadata.get("min"), shape.metadata.get("max")
        if least is not None and value < least:
            return f"Member must have value {GREATER}{least}"
        if most is not None and value > most:
            return f"Member must have value {LESS}{most}"
    return ""


def _length_broken(shape: Shape, length: int) -> str:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and length < least:
        return at_least(least)
    return at_most(most) if most is not None and length > most else ""


def _pattern_broken(pattern: str | None, value: str) -> str:
    # AWS is written in Java, whose classes are of ASCII and whose patterns have to match it all.
    if pattern is None or re.fullmatch(pattern, value, re.ASCII):
        return ""
    return f"Member must satisfy regular expression pattern: {pattern}"


def _said(value: Any) -> str:
    """Return a value as AWS' messages have it."""
    match value:
        case list() if any(isinstance(entry, dict) for entry in value):
            text = "[...]"
        case list():
            text = f"[{', '.join(map(str, value))}]"
        case dict():
            text = f"{{{', '.join(f'{key}={entry}' for key, entry in value.items())}}}"
        case _:
            text = str(value)
    return f"Value '{shown(text)}'"
