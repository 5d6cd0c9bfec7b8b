"""NextTokens of the proxy's own: each holds all that its page needs, so nothing is remembered."""

import base64
import binascii
import json
from typing import Any, Final

_PREFIX: Final = "proxied:"


def wrap(state: Any) -> str:
    """Return a token.

    Args:
        state: What JSON can hold, other than null.
    """
    return _PREFIX + base64.urlsafe_b64encode(json.dumps(state).encode()).decode()


def unwrap(token: object) -> Any:
    """Return what a token holds; None if it is none of ours, or a broken one."""
    if not isinstance(token, str) or not token.startswith(_PREFIX):
        return None
    try:
        return json.loads(base64.urlsafe_b64decode(token.removeprefix(_PREFIX)))
    except (binascii.Error, ValueError, RecursionError):
        return None
