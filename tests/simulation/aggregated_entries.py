"""What a simulated world knows of the records that it put, and of the requests they travel in."""

from dataclasses import dataclass, field

from producers.aggregated.departure import PutRequest
from producers.aggregated.values import Item, PutResult
from producers.errors import DeliveryError
from records.partition import hash_key


@dataclass(slots=True, eq=False, repr=False)
class Entry:
    """What the world knows of a record. Times are the machine's; ticks count what happened."""

    number: int
    key: tuple[str, int | None]
    data: bytes
    poison: bool
    accepted: int = 0
    accepted_at: float = 0.0
    ahead: int = 0  # How many were buffered before it.
    flushed_at: float | None = None
    settled: int = 0
    settled_at: float = 0.0
    result: PutResult | DeliveryError | None = None
    on_the_road: int = 0
    unanswered: bool = False  # It was given up there.
    attempts: list[tuple[float, float, str | None]] = field(default_factory=list)

    @property
    def place(self) -> int:
        """Where it belongs in the hash space."""
        return hash_key(self.key[0]) if self.key[1] is None else self.key[1]

    def __repr__(self) -> str:
        return str(self.number)


class Put(Item):
    """The record as the machine gets it, and what the world knows of it."""

    entry: Entry


@dataclass(slots=True, eq=False)
class Trip:
    """A request on the road."""

    request: PutRequest
    packs: list[list[Entry]]
    started: float
