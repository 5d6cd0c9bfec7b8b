"""The layout of a sequence number: when its shard was opened, which shard, which record of it.

The numbers of kinesis-mock and kinesalite, and those in AWS' own examples, are 47 hexadecimal
digits: a leading 2, the second in which the shard was opened (9), the last digit of the shard's
index, the record's place in the shard (16), a byte, the second of the record (9), the shard's index
(8) and the layout's version, 2. AWS promises nothing but the order, so no client should read one;
the proxy does because an emulator says in no other place when a shard was opened. Pure.
"""

from dataclasses import dataclass
from typing import Final

_DIGITS: Final = 47
_MAX_SECOND: Final = 16**9 - 1
_MAX_SHARD: Final = 2**31 - 1  # the emulators read the field as a signed integer

MAX_PLACE: Final = 2**63 - 1
"""The last place in a shard, which no record has: closed shards end at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceNumber:
    """What a sequence number says.

    Attributes:
        opened: When the shard was opened, in whole seconds since the epoch.
        shard: The shard's index, the number in its ID.
        place: The record's place in the shard; 0 for the shard's start.
        at: When the record arrived, in whole seconds since the epoch.
        byte: Of no known meaning; 0 on emulators.
    """

    opened: int
    shard: int
    place: int
    at: int
    byte: int = 0

    def __str__(self) -> str:
        """Return it in decimal digits, as the API has it.

        Raises:
            ValueError: A field is too large for its digits.
        """
        if not (
            0 <= self.opened <= _MAX_SECOND
            and 0 <= self.at <= _MAX_SECOND
            and 0 <= self.shard <= _MAX_SHARD
            and 0 <= self.place <= MAX_PLACE
            and 0 <= self.byte <= 0xFF
        ):
            raise ValueError(f"no sequence number holds {self!r}")
        opened_by = f"2{self.opened:09x}{self.shard % 16:x}"
        return str(
            int(f"{opened_by}{self.place:016x}{self.byte:02x}{self.at:09x}{self.shard:08x}2", 16)
        )


def parse(text: object) -> SequenceNumber | None:
    """Read a sequence number; None if it is none or has another layout."""
    if not isinstance(text, str) or not (text.isascii() and text.isdigit()) or len(text) > 64:
        return None
    digits = f"{int(text):x}"
    if len(digits) != _DIGITS or digits[0] != "2" or digits[-1] != "2":
        return None
    number = SequenceNumber(
        opened=int(digits[1:10], 16),
        shard=int(digits[38:46], 16),
        place=int(digits[11:27], 16),
        byte=int(digits[27:29], 16),
        at=int(digits[29:38], 16),
    )
    if number.shard > _MAX_SHARD or number.place > MAX_PLACE:
        return None
    return number if int(digits[10], 16) == number.shard % 16 else None
