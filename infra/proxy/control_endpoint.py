"""The proxy's own paths: what has struck, and what is to strike next.

::

    GET    /_proxy/status               everything that is counted
    POST   /_proxy/faults               one fault, or {"faults": [...]}; the status after that
    DELETE /_proxy/faults[?name=NAME]   forget all faults or one; the status after that
    POST   /_proxy/thaw                 end what is frozen; the status after that
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Incoming
from infra.proxy.faults import FaultPlan
from infra.proxy.scenario import fault_from
from infra.safety import is_loopback

CONTROL_PREFIX: Final = "/_proxy/"

_METHODS: Final = {"status": ("GET",), "faults": ("POST", "DELETE"), "thaw": ("POST",)}


def answer_control(
    incoming: Incoming, *, plan: FaultPlan, status: Callable[[], Mapping[str, Any]]
) -> Answer:
    """Answer a request for one of the proxy's own paths.

    Args:
        incoming: A request whose path begins with `CONTROL_PREFIX`.
        plan: What it may change.
        status: Gives everything that is counted, ready for JSON.
    """
    refused = _refused(incoming)
    if refused is not None:
        return refused
    try:
        match incoming.method, _name(incoming):
            case "POST", "faults":
                plan.add(*map(fault_from, _mappings(incoming.body)))
            case "DELETE", "faults":
                wanted = _wanted(incoming.target.partition("?")[2])
                if not plan.clear(wanted) and wanted is not None:
                    return _problem(404, f"there is no fault {wanted!r}")
            case "POST", "thaw":
                plan.thaw()
    except (ValueError, RecursionError) as error:
        return _problem(400, str(error) or "nested too deeply")
    return _json(200, status())


def _name(incoming: Incoming) -> str:
    return incoming.path.removeprefix(CONTROL_PREFIX)


def _refused(incoming: Incoming) -> Answer | None:
    name = _name(incoming)
    if not _is_local(incoming.peer):
        return _problem(403, "the control endpoint is local")
    if _is_from_a_page(incoming.headers):
        return _problem(403, "the control endpoint is not for web pages")
    if name not in _METHODS:
        there_are = (f"{method} {CONTROL_PREFIX}{n}" for n, m in _METHODS.items() for method in m)
        return _problem(404, f"there are {', '.join(there_are)}")
    if incoming.method not in _METHODS[name]:
        allowed = ", ".join(_METHODS[name])
        return _problem(405, f"{CONTROL_PREFIX}{name} takes {allowed}", Allow=allowed)
    return None


def _is_local(peer: str) -> bool:
    peer = peer.removeprefix("::ffff:")  # IPv4 on a socket that takes both
    return is_loopback(f"//[{peer}]" if ":" in peer else f"//{peer}")


def _is_from_a_page(headers: CIMultiDict[str]) -> bool:
    """Say whether a browser sends it for a page, which must not drive what runs on this machine."""
    return "Origin" in headers or headers.get("Sec-Fetch-Site", "none") != "none"


def _mappings(body: bytes) -> list[dict[str, Any]]:
    try:
        message = json.loads(body)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    match message:
        case {"faults": list(faults), **others} if not others:
            wanted = faults
        case {**fault} if "faults" not in fault:
            wanted = [fault]
        case _:
            raise ValueError('expected {"action": "lose", ...} or {"faults": [...]}')
    for each in wanted:
        if not isinstance(each, dict):
            raise ValueError(f"faults: an object is expected, not {each!r}")  # noqa: TRY004 - a 400
    return wanted


def _wanted(query: str) -> str | None:
    """Return the name in `name=...`; None when there is no query at all.

    Raises:
        ValueError: It asks for anything else; it must not be taken for "all".
    """
    if not query:
        return None
    match parse_qs(query, keep_blank_values=True, max_num_fields=10):
        case {"name": [str(name)], **others} if not others:
            return name
        case _:
            raise ValueError("expected ?name=NAME, or no query at all")


def _problem(status: int, text: str, **headers: str) -> Answer:
    return _json(status, {"error": text}, **headers)


def _json(status: int, value: Mapping[str, Any], **headers: str) -> Answer:
    body = json.dumps(value, allow_nan=False).encode() + b"\n"
    return Answer(status, CIMultiDict({"Content-Type": "application/json", **headers}), body)
