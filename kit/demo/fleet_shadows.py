"""The application's side of the devices' shadows: what it asked for, and who has followed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from iot.connection import Connection
from iot.errors import ShadowRequestError
from iot.shadow_client import ShadowClient


@dataclass(slots=True)
class FleetShadows:
    """The shadows of several things over one connection.

    Args:
        connection: not yet started; the caller starts and stops it.
        things: the things' names.
    """

    connection: Connection
    things: Sequence[str]
    converged: set[str] = field(default_factory=set, init=False)
    _clients: dict[str, ShadowClient] = field(init=False)
    _desired: dict[str, object] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._clients = {thing: ShadowClient(self.connection, thing) for thing in self.things}

    def desire(self, state: dict[str, object]) -> None:
        """Ask every thing for `state`; none counts as converged until it has reported it.

        Raises:
            ShadowRequestError: the shadow service refused, or does not answer.
        """
        self._desired = state
        self.converged.clear()
        for client in self._clients.values():
            client.set(desired=state)

    def look(self, *, at_most: int | None = None) -> None:
        """Ask the shadow service about things that have not been seen to follow.

        Args:
            at_most: how many of them to ask about; all by default.
        """
        if not self._desired:
            return
        for thing in sorted(set(self.things) - self.converged)[:at_most]:
            try:
                state = self._clients[thing].get()["state"]
            except ShadowRequestError:
                continue  # no answer in time is no convergence; the next look asks again
            followed = self._desired.items() <= state.get("reported", {}).items()
            if followed and "delta" not in state:
                self.converged.add(thing)
