"""Talk to a running proxy from Python."""

import json
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

_SECONDS = 10.0


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
    body = json.dumps({"operation": operation, "count": count})
    return _call(proxy_url, "POST", "/_proxy/lose", body)


def status(proxy_url: str) -> dict[str, Any]:
    """Return the proxy's counts: `requests`, `lost`, `pending`, `operations`, `losses`.

    Raises:
        OSError: The proxy does not answer.
    """
    return _call(proxy_url, "GET", "/_proxy/status", None)


def _call(proxy_url: str, method: str, path: str, body: str | None) -> dict[str, Any]:
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
