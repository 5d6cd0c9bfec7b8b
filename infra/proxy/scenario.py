"""Scenarios: faults written down in TOML, or as JSON for the control endpoint.

::

    seed = 7

    [[fault]]
    action = "lose"
    operation = "PutRecords"
    count = 2

The keys are the fields of `infra.proxy.fault.Fault`, with `-` or `_`; `operation` may be one name
or a list. `infra/proxy/scenarios/bad_day.toml` has one fault of each kind.
"""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from infra.proxy.fault import Action, Fault
from infra.proxy.faults import FaultPlan


class ScenarioError(ValueError):
    """A scenario is not what it should be; one line says where."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a scenario file says.

    Attributes:
        seed: Where chance begins.
        faults: In the order of the file.
    """

    seed: int = 0
    faults: tuple[Fault, ...] = ()


def load(path: Path) -> Scenario:
    """Read a scenario file.

    Args:
        path: A TOML file.

    Raises:
        ScenarioError: It cannot be read or does not fit; file, fault and field are named.
    """
    try:
        with path.open("rb") as file:
            return _scenario_from(tomllib.load(file))
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ScenarioError(f"{path}: nested too deeply") from error
    except ValueError as error:
        raise ScenarioError(f"{path}: {error}") from error


def fault_from(mapping: Mapping[str, Any]) -> Fault:
    """Make a fault of what TOML or JSON holds.

    Args:
        mapping: The fields of `Fault`, with `-` or `_`.

    Raises:
        ScenarioError: A key is unknown or twice there, or a value does not fit; it is named.
    """
    fields: dict[str, Any] = {}
    for key, value in mapping.items():
        name = _known(key, _READERS, extra=("operation",))
        name = "operations" if name == "operation" else name
        if name in fields:
            raise ScenarioError(f"{key}: given twice")
        fields[name] = _READERS[name](key, value)
    if "action" not in fields:
        raise ScenarioError(f"action: missing; one of {', '.join(Action)}")
    try:
        return Fault(**fields)
    except ValueError as error:
        raise ScenarioError(str(error)) from error


def _scenario_from(table: Mapping[str, Any]) -> Scenario:
    seed, faults = 0, []
    for key, value in table.items():
        match _known(key, ("seed", "fault")), value:
            case "seed", _:
                seed = _integer(key, value)
            case _, list():
                faults = [_numbered(index, each) for index, each in enumerate(value, 1)]
            case _:
                raise ScenarioError("fault: each one is a table of its own, [[fault]]")
    # A plan of nobody's finds what is wrong between faults, such as a name used twice.
    FaultPlan(clock=lambda: 0.0).add(*faults)
    return Scenario(seed, tuple(faults))


def _numbered(index: int, value: object) -> Fault:
    where = f"fault {index}"
    if not isinstance(value, dict):
        raise ScenarioError(f"{where}: a table is expected, not {value!r}")
    if isinstance(value.get("name"), str):
        where += f" ({value['name']})"
    try:
        return fault_from(value)
    except ScenarioError as error:
        raise ScenarioError(f"{where}: {error}") from error


def _known(
    key: str, names: Mapping[str, object] | tuple[str, ...], extra: tuple[str, ...] = ()
) -> str:
    """Return the name that a key stands for, or say which it may have been."""
    known = (*names, *extra)
    name = key.replace("-", "_")
    if name in known:
        return name
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    raise ScenarioError(f"{key}: unknown; {hint}")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ScenarioError(f"{key}: text is expected, not {value!r}")
    return value


def _texts(key: str, value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(_text(key, each) for each in values)


def _integer(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ScenarioError(f"{key}: a whole number is expected, not {value!r}")
    return value


def _integers(key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ScenarioError(f"{key}: a list of whole numbers is expected, not {value!r}")
    return tuple(_integer(key, each) for each in value)


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ScenarioError(f"{key}: a number is expected, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ScenarioError(f"{key}: too large") from None


def _action(key: str, value: object) -> Action:
    text = _text(key, value).replace("_", "-")
    try:
        return Action(text)
    except ValueError:
        close = get_close_matches(text, list(Action), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(Action)}"
        raise ScenarioError(f"{key}: there is no {value!r}; {hint}") from None


_READERS: Final[Mapping[str, Callable[[str, object], Any]]] = {
    "action": _action,
    "name": _text,
    "operations": _texts,
    "stream": _text,
    "shard": _text,
    "probability": _number,
    "count": _integer,
    "skip": _integer,
    "after_seconds": _number,
    "for_seconds": _number,
    "seconds": _number,
    "status": _integer,
    "code": _text,
    "share": _number,
    "records": _integers,
}
if set(_READERS) != {field.name for field in dataclasses.fields(Fault)}:
    raise AssertionError("a field of Fault cannot be read")
