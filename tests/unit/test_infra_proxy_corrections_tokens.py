import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.corrections import tokens


@given(st.recursive(st.text() | st.integers(), st.lists, max_leaves=5))
def test_a_token_gives_back_what_was_put_in(state: object):
    assert tokens.unwrap(tokens.wrap(state)) == state


@pytest.mark.parametrize(
    "token",
    [
        *(None, 7, "", "orders::token", "proxied:!", "proxied:", "proxied:bm8="),
        "proxied:" + base64.b64encode(b"[" * 100_000).decode(),
    ],
)
def test_what_is_no_token_of_ours_holds_nothing(token: object):
    assert tokens.unwrap(token) is None
