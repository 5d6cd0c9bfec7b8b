"""Talk to a running proxy from Python: make things go wrong, and read what has gone wrong."""

import json
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlsplit

_SECONDS = 10.0


def add(proxy_url: str, **fault: object) -> dict[str, Any]:
    """Add a fault: `add(url, action="partial", share=0.5, probability=0.1)`.

    Args:
        proxy_url: What the proxy printed after `ready`.
        fault: The fields of `infra.proxy.fault.Fault`; what is None is left out.

    Returns:
        The status after that.

    Raises:
        OSError: The proxy does not answer.
        ValueError: It refuses; the message names the field.
    """
    body = json.dumps({name: value for name, value in fault.items() if value is not None})
    return _call(proxy_url, "POST", "/_proxy/faults", body)


def lose(proxy_url: str, operation: str, count: int = 1) -> dict[str, Any]:
    """Lose the answers to the next `count` successful calls of an operation.

    Args:
        proxy_url: What the proxy printed after `ready`.
        operation: An API operation such as `PutRecords`.
        count: How many, on top of those that are still due.

    Returns:
        The status after that.

    Raises:
        OSError: The proxy does not answer.
        ValueError: It refuses.
    """
    return add(proxy_url, action="lose", operation=operation, count=count)


def clear(proxy_url: str, name: str | None = None) -> dict[str, Any]:
    """Forget one fault, or all, and return the status after that.

    Raises:
        OSError: The proxy does not answer.
        ValueError: There is no fault of this name.
    """
    query = "" if name is None else f"?name={quote(name, safe='')}"
    return _call(proxy_url, "DELETE", f"/_proxy/faults{query}")


def thaw(proxy_url: str) -> dict[str, Any]:
    """End every freeze that is on, and return the status after that.

    Raises:
        OSError: The proxy does not answer.
    """
    return _call(proxy_url, "POST", "/_proxy/thaw")


def status(proxy_url: str) -> dict[str, Any]:
    """Return everything that the proxy counts; under `faults`, what has struck.

    Raises:
        OSError: The proxy does not answer.
    """
    return _call(proxy_url, "GET", "/_proxy/status")


def lost_answers(status: Mapping[str, Any]) -> int:
    """Return how many answers were lost after their requests had been carried out."""
    return int(status["faults"]["lost"])


def struck(status: Mapping[str, Any], name: str) -> int:
    """Return how often the fault of this name has struck; 0 when there is none."""
    return int(status["faults"]["by_name"].get(name, {}).get("struck", 0))


def _call(proxy_url: str, method: str, path: str, body: str | None = None) -> dict[str, Any]:
    parts = urlsplit(proxy_url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_SECONDS)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(answer.get("error", f"HTTP {response.status}"))
    return answer
