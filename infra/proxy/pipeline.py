"""The way of a request: faults before it, its treatment or a plain relay, faults after it."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer, Incoming, Reply, send
from infra.proxy.fault import Action, Subject
from infra.proxy.messages import (
    Call,
    MalformedBodyError,
    Refusal,
    Service,
    call_of,
    plain_error,
    refusal_to,
)
from infra.proxy.operations.subscribe import subscribe
from infra.proxy.relay import relay
from infra.proxy.repeats import Repeats
from infra.proxy.replies import Kept, Late, Lost, Nowhere
from infra.proxy.streams import stream_of
from infra.proxy.strikes import Strikes
from infra.proxy.treatment import SUBSCRIBE, is_treated, operation_of, treat
from infra.proxy.upstream import UpstreamError

_log = logging.getLogger(__name__)

_THAW_SECONDS: Final = 0.05
"""How often a request that is held looks whether it has been thawed."""


class Pipeline:
    """Carries requests, each in the task that the server gave it.

    Args:
        desk: What the treatments work with.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._repeats = Repeats(desk.faults)

    async def handle(self, incoming: Incoming, reply: Reply) -> None:
        """Answer one request."""
        desk = self._desk
        operation = operation_of(incoming)
        counted = desk.tally.arrived(operation)
        call = call_of(incoming)
        try:
            if not desk.faults.active:
                await self._carry(incoming, call, reply, None)
                return
            subject = self._subject(operation, call)
            with self._struck(subject) as strikes:
                await self._misbehave(incoming, call, reply, subject, strikes)
        except MalformedBodyError as error:
            desk.tally.refused[counted] += 1
            await send(_refusal(call, Refusal("SerializationException", str(error))), reply)
        except UpstreamError as error:
            desk.tally.upstream_errors += 1
            _log.error("no answer from the upstream to %s: %s", operation, error.message)
            await send(_refusal(call, Refusal(error.code, error.message, error.status)), reply)
        except ConnectionError:
            _log.debug("a client left before the answer to %s had been sent", operation)

    def _subject(self, operation: str, call: Call | None) -> Subject:
        """Say what a request is about, as far as a fault can be meant for it."""
        if call is None or call.service is not Service.KINESIS:
            return Subject(operation)
        parameters = call.parameters
        issued = self._desk.iterators.look_up(str(parameters.get("ShardIterator", "")))
        if issued is not None:
            return Subject(operation, issued.stream[1], issued.shard_id)
        shard = parameters.get("ShardId")
        return Subject(operation, stream_of(parameters), shard if isinstance(shard, str) else None)

    @contextmanager
    def _struck(self, subject: Subject) -> Iterator[Strikes]:
        strikes = Strikes(self._desk.faults, subject)
        try:
            yield strikes
        finally:
            strikes.give_back()

    async def _misbehave(
        self,
        incoming: Incoming,
        call: Call | None,
        reply: Reply,
        subject: Subject,
        strikes: Strikes,
    ) -> None:
        """Do what the faults say, around carrying the request."""
        # The plan is pure and calls nobody, so it is asked.
        while (seconds := self._desk.faults.frozen_seconds(subject)) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(seconds, _THAW_SECONDS))
        if reset := strikes.get(Action.RESET_BEFORE):
            strikes.happened(reset)
            reply.cut(reset=True)
            return
        if error := strikes.get(Action.ERROR):
            strikes.happened(error)
            await send(_refusal(call, Refusal(error.code, error.reason, error.status)), reply)
            return
        if (expire := strikes.get(Action.EXPIRE_ITERATOR)) and call is not None:
            strikes.happened(expire)
            self._desk.iterators.expire(str(call.parameters.get("ShardIterator", "")))
        elif call is not None and (again := self._repeats.take(call, subject)) is not None:
            await send(again, reply)
            return
        if twice := strikes.get(Action.SEND_TWICE):
            first = Nowhere()
            await self._carry(incoming, call, first, strikes)
            if first.carried_out:
                strikes.happened(twice)
        await self._carry(incoming, call, self._disturbed(call, reply, subject, strikes), strikes)

    def _disturbed(
        self, call: Call | None, reply: Reply, subject: Subject, strikes: Strikes
    ) -> Reply:
        """Return a reply to which happens what the strikes say."""
        # An iterator that did not come through here is of no stream that is known.
        if strikes.is_due(Action.REPEAT) and call is not None and subject.stream is not None:

            def keep(answer: Answer) -> None:
                self._repeats.keep(call, answer, strikes.keep(Action.REPEAT))

            reply = Kept(reply, keep)
        for action in (Action.LOSE, Action.RESET_AFTER):
            if strike := strikes.get(action):
                reply = Lost(
                    reply,
                    reset=action is Action.RESET_AFTER,
                    at_start=subject.operation == SUBSCRIBE,
                    due=partial(strikes.is_due, action),
                    happened=partial(strikes.happened, strike),
                )
        if delay := strikes.get(Action.DELAY):
            reply = Late(reply, delay.seconds, partial(strikes.happened, delay))
        return reply

    async def _carry(
        self, incoming: Incoming, call: Call | None, reply: Reply, strikes: Strikes | None
    ) -> None:
        """Let a call be treated, or relay what it is not for us to treat."""
        desk = self._desk
        if call is None or not is_treated(call, desk):
            await self._relay(incoming, reply)
            return
        # Read first: from here on, what cannot be read is the upstream's.
        _ = call.parameters
        if call.operation == SUBSCRIBE:
            answer = await subscribe(call, desk, reply)
        else:
            try:
                answer = await treat(call, desk, strikes)
            except MalformedBodyError as error:
                text = f"the upstream's answer to {call.operation} cannot be read: {error}"
                raise UpstreamError("ServiceUnavailable", text, 502) from error
        if answer is not None:
            if answer.refused:
                desk.tally.refused[desk.tally.named(call.operation)] += 1
            await send(answer, reply)

    async def _relay(self, incoming: Incoming, reply: Reply) -> None:
        """Pass a request and its answer through, piece by piece, as they come."""
        async with self._desk.upstream.send(
            incoming.method, incoming.target, incoming.headers, incoming.body
        ) as answer:
            await relay(answer, reply, self._desk.tally)


def _refusal(call: Call | None, refusal: Refusal) -> Answer:
    return plain_error(refusal) if call is None else refusal_to(call, refusal)
