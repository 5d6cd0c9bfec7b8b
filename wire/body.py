"""What a request carries, in pieces."""

from collections.abc import Sequence
from typing import Final

PIECE_BYTES: Final = 1 << 16
"""So much data of records is worth a piece."""


class Body:
    """A body that botocore's signer reads like a file, and nobody needs in a row.

    Megabytes in a row would come and go with each request, and glibc keeps them at hand for each
    thread from the first time on: with eight requests on the road, a third of the memory of all.

    Args:
        pieces: What is sent, one piece after the other.
    """

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        self.pieces: Final = pieces
        self._length = sum(map(len, pieces))
        self._read = 0

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)

    def tell(self) -> int:
        """Return how many pieces were read."""
        return self._read

    def seek(self, pieces: int) -> None:
        """Go back to where so many were read."""
        self._read = pieces

    def read(self, _size: int = -1) -> bytes | memoryview:
        """Return the next piece, whatever its size; at the end nothing."""
        if self._read == len(self.pieces):
            return b""
        self._read += 1
        return self.pieces[self._read - 1]
