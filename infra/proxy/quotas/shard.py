"""One shard's quotas, and how busy it has been."""

from collections import deque
from math import floor, inf
from typing import Final

from records.limits import (
    MAX_GET_BYTES,
    SHARD_READ_BYTES_PER_SECOND,
    SHARD_READ_CALLS_PER_SECOND,
    SHARD_WRITE_BYTES_PER_SECOND,
    SHARD_WRITE_RECORDS_PER_SECOND,
)
from records.quota import TokenBucket

RATE_SECONDS: Final = 3
"""Over how many whole seconds, the last ones, rates are taken."""


class Meter:
    """Counts records, bytes, reads and bytes read, second by second."""

    __slots__ = ("_past", "_second", "bytes", "read_bytes", "reads", "records")

    def __init__(self) -> None:
        self._second = 0
        self._past: deque[tuple[int, tuple[int, int, int, int]]] = deque(maxlen=RATE_SECONDS)
        self.records = self.bytes = self.reads = self.read_bytes = 0

    def at(self, now: float) -> None:
        """Begin a new second if it is time; to be called before anything is counted."""
        second = floor(now)
        if second > self._second:
            if self.records or self.reads or self.read_bytes:
                counts = (self.records, self.bytes, self.reads, self.read_bytes)
                self._past.append((self._second, counts))
                self.records = self.bytes = self.reads = self.read_bytes = 0
            self._second = second

    def rates(self, now: float) -> tuple[float, float, float, float]:
        """Return records, bytes, reads and bytes read per second."""
        self.at(now)
        first = self._second - RATE_SECONDS
        records = size = reads = read_bytes = 0
        for second, counts in self._past:  # a plain loop: a status asks this of every shard
            if second >= first:
                records += counts[0]
                size += counts[1]
                reads += counts[2]
                read_bytes += counts[3]
        return (
            records / RATE_SECONDS,
            size / RATE_SECONDS,
            reads / RATE_SECONDS,
            read_bytes / RATE_SECONDS,
        )


class ShardQuota:
    """What one shard takes and gives. Buckets are made when they are first needed.

    AWS: Kinesis Data Streams Developer Guide, Quotas and limits.

    Attributes:
        meter: What was admitted, second by second.
        admitted: Records written.
        throttled: Records and calls that were refused.
    """

    __slots__ = (
        "_get_calls",
        "_iterator_calls",
        "_penalty_until",
        "_read_bytes",
        "_write_bytes",
        "_write_records",
        "admitted",
        "meter",
        "throttled",
    )

    def __init__(self) -> None:
        self.meter = Meter()
        self.admitted = 0
        self.throttled = 0
        self._write_records: TokenBucket | None = None
        self._write_bytes: TokenBucket | None = None
        self._read_bytes: TokenBucket | None = None
        self._get_calls: TokenBucket | None = None
        self._iterator_calls: TokenBucket | None = None
        self._penalty_until = -inf

    def put(self, sizes: list[int], now: float, *, burst: int) -> list[bool]:
        """Say of each record, in their order, whether the shard takes it.

        Args:
            sizes: Of the records: data and partition key, in bytes.
            now: The time, in seconds.
            burst: What the shard takes at once after a rest, in bytes.
        """
        records, volume = self._writes(now, burst)
        taken: list[bool] = []
        written = 0
        for size in sizes:
            admitted = records.take(1, now)
            if admitted and not volume.take(size, now):
                records.give_back(1, now)
                admitted = False
            if admitted:
                written += size
            taken.append(admitted)
        count = taken.count(True)
        self.meter.at(now)
        self.meter.records += count
        self.meter.bytes += written
        self.admitted += count
        self.throttled += len(taken) - count
        return taken

    def get_records(self, now: float) -> bool:
        """Say whether the shard may be read now."""
        if self._get_calls is None:
            self._get_calls = _calls(now)
        paid = self._read_bytes is None or self._read_bytes.available(now) >= 0
        if now >= self._penalty_until and paid and self._get_calls.take(1, now):
            self.meter.at(now)
            self.meter.reads += 1
            return True
        self.throttled += 1
        return False

    def got_records(self, size: int, now: float, *, penalty: float) -> None:
        """Charge what was read, after it was.

        Args:
            size: Of the answer: data and partition keys, in bytes.
            now: The time, in seconds.
            penalty: How long an answer of full size keeps the shard from being read, in seconds.
        """
        if self._read_bytes is None:
            rate = SHARD_READ_BYTES_PER_SECOND
            self._read_bytes = TokenBucket(rate=rate, burst=rate, now=now)
        self._read_bytes.charge(size, now)
        if size >= MAX_GET_BYTES:
            self._penalty_until = now + penalty
        self.meter.at(now)
        self.meter.read_bytes += size

    def get_shard_iterator(self, now: float) -> bool:
        """Say whether the shard gives out another iterator now."""
        if self._iterator_calls is None:
            self._iterator_calls = _calls(now)
        if self._iterator_calls.take(1, now):
            return True
        self.throttled += 1
        return False

    def _writes(self, now: float, burst: int) -> tuple[TokenBucket, TokenBucket]:
        records, volume = self._write_records, self._write_bytes
        if records is None or volume is None:
            rate = SHARD_WRITE_RECORDS_PER_SECOND
            records = self._write_records = TokenBucket(rate=rate, burst=rate, now=now)
            volume = self._write_bytes = _volume(burst, now)
        elif volume.burst != burst:  # The stream's maximum has changed: what was used stays used.
            used = min(volume.burst - volume.available(now), burst)
            volume = self._write_bytes = _volume(burst, now)
            volume.charge(used, now)
        return records, volume


def _calls(now: float) -> TokenBucket:
    rate = SHARD_READ_CALLS_PER_SECOND
    return TokenBucket(rate=rate, burst=rate, now=now)


def _volume(burst: int, now: float) -> TokenBucket:
    return TokenBucket(rate=SHARD_WRITE_BYTES_PER_SECOND, burst=burst, now=now)
