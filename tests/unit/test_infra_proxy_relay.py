"""An answer passed on piece by piece: whole, broken off, or to a client that has left."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from infra.proxy.desk import Tally
from infra.proxy.relay import relay
from infra.proxy.upstream import UpstreamError
from tests.unit.proxy_reply_support import HEADERS, WHOLE, Noted


class Coming:
    """An answer of an upstream, as far as `relay` looks at it."""

    status, headers, reason, length = 200, HEADERS, "Fine", 4

    def __init__(self, *pieces: bytes, breaks: bool = False) -> None:
        self._pieces = pieces
        self._breaks = breaks

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._breaks:
            raise UpstreamError("ServiceUnavailable", "it broke off", 502)


def relayed(coming: Coming, noted: Noted, **pieces: Any) -> Tally:
    tally = Tally()
    asyncio.run(relay(coming, noted, tally, **pieces))  # type: ignore[arg-type]
    return tally


def test_an_answer_passes_with_its_length():
    noted = Noted()
    assert relayed(Coming(b"body"), noted).upstream_errors == 0
    assert noted.told == WHOLE


def test_pieces_pass_as_they_come():
    noted = Noted()
    relayed(Coming(b"bo", b"dy"), noted)
    assert noted.told[1:] == [("write", b"bo"), ("write", b"dy"), ("finish",)]


def test_another_body_has_no_known_length():
    noted = Noted()
    relayed(Coming(b"body"), noted, pieces=Coming(b"other", b"body").chunks())
    assert noted.told[0] == ("start", 200, {"X-Kind": "text"}, "Fine", None)
    assert noted.told[1:] == [("write", b"other"), ("write", b"body"), ("finish",)]


@pytest.mark.parametrize("own", [True, False])
def test_an_answer_that_breaks_off_is_cut_and_counted(
    caplog: pytest.LogCaptureFixture, *, own: bool
):
    noted, broken = Noted(), Coming(b"bo", breaks=True)
    with caplog.at_level(logging.ERROR):
        tally = relayed(broken, noted, **({} if own else {"pieces": broken.chunks()}))
    assert noted.told[1:] == [("write", b"bo"), ("cut", False)]
    assert tally.upstream_errors == 1
    assert "it broke off" in caplog.text


@pytest.mark.parametrize("step", ["start", "write", "finish"])
def test_a_client_that_has_left_is_the_callers_business(step: str):
    with pytest.raises(ConnectionResetError):
        relayed(Coming(b"body"), Noted(fails_at=step))
