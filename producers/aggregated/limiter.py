"""What one shard will be sent now: its write quota, and less while the shard refuses records.

A shard takes 1,000 records and 1 MiB a second from all its producers together, and none of them
sees the others. So each one feels its way: a refusal takes a part of its share away at once, time
without a refusal gives it back bit by bit (additive increase, multiplicative decrease). Producers
that do so come to about equal shares of what there is, whatever they began with.

AWS: Kinesis Data Streams Developer Guide, Quotas and limits.
https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html
"""

from math import inf, sqrt
from typing import Final

from records.limits import SHARD_WRITE_BYTES_PER_SECOND, SHARD_WRITE_RECORDS_PER_SECOND
from records.quota import TokenBucket

# What is used of the quota in the long run. A producer that used all of it would never be refused,
# and never notice another one, whose every record finds the shard full.
_USED: Final = 0.98
# A smaller one wastes what two producers could use, a larger one brings more refusals.
_DECREASE: Final = 0.6
# One answer may refuse hundreds of records, and those on the road were sent at the old rate: all of
# them are one and the same news.
_HOLD_SECONDS: Final = 0.5
# From nothing to the full share. The root of the share grows evenly, not the share: fifty producers
# with a fiftieth each then ask for a third of the shard more in half a second, else for all of it.
_RECOVERY_SECONDS: Final = 20.0
# A hundred producers of one shard still fit in; 10 refusals in a row (4.5 s) lead here.
_FLOOR: Final = 0.01
# What the floor yields in this time is one full aggregate of 50 KiB. A larger record needs no more.
_PATIENCE_SECONDS: Final = 5.0


class ShardLimiter:
    """Says when the next record may go to one shard. Not safe between threads.

    Args:
        share: The most to use of the shard's quota; above 1 it is the shard that refuses.
        max_record_bytes: The stream's own maximum for one record, which may go out in a burst.
        now: The time, in seconds of any one clock, as in all methods.

    Raises:
        ValueError: The share is no positive, finite number.
    """

    __slots__ = (
        "_byte_rate",
        "_bytes",
        "_decreased_at",
        "_grown_at",
        "_record_rate",
        "_records",
        "_share",
        "_taken_at",
    )

    def __init__(self, *, share: float, max_record_bytes: int, now: float) -> None:
        if not 0 < share < inf:
            raise ValueError(f"a share of the quota is a positive number, not {share!r}")
        # A second's worth goes out at once.
        records = share * SHARD_WRITE_RECORDS_PER_SECOND
        size = share * SHARD_WRITE_BYTES_PER_SECOND
        self._record_rate, self._byte_rate = _USED * records, _USED * size
        self._records = TokenBucket(rate=self._record_rate, burst=max(1.0, records), now=now)
        self._bytes = TokenBucket(rate=self._byte_rate, burst=max(max_record_bytes, size), now=now)
        self._share = 1.0
        self._taken_at = self._decreased_at = -inf
        self._grown_at = now

    @property
    def share(self) -> float:
        """What is used now of the full share, from 0 to 1."""
        return self._share

    def wait(self, size: int, now: float) -> float:
        """Return the seconds until a record of this size may be sent; 0: now. Never infinite.

        Args:
            size: What the Kinesis record counts, in bytes: its data and its partition key.
            now: The time, in seconds.
        """
        # Above the burst, a full bucket is all that there can be.
        size_wait = self._bytes.wait(min(size, self._bytes.burst), now)
        seconds = max(size_wait, self._records.wait(1, now))
        if not seconds or self._share == 1.0:
            return seconds
        # A large record would wait for minutes at a small share, and be too old by then. It waits
        # only for as long as it would at the full share, or for some seconds if that is longer.
        patience = max(_PATIENCE_SECONDS, size / self._byte_rate, 1 / self._record_rate)
        return min(seconds, max(0.0, self._taken_at + patience - now))

    def take(self, size: int, now: float) -> None:
        """Charge a record that is sent now, when `wait` is 0.

        Args:
            size: What the Kinesis record counts, in bytes.
            now: The time, in seconds.
        """
        self._taken_at = now
        # Nothing is owed for a record that went out on patience: its successors would pay for it.
        if not self._records.take(1, now):
            _empty(self._records, now)
        if not self._bytes.take(size, now):
            _empty(self._bytes, now)

    def throttled(self, now: float) -> None:
        """Note that the shard refused a record (ProvisionedThroughputExceededException)."""
        if now - self._decreased_at < _HOLD_SECONDS:
            return
        self._decreased_at = self._grown_at = now
        # The shard has nothing left at this moment, whatever was saved up here.
        _empty(self._records, now)
        _empty(self._bytes, now)
        self._set_share(max(_FLOOR, self._share * _DECREASE), now)

    def confirmed(self, now: float) -> None:
        """Note that the shard took a record."""
        # After a long silence this is the full share, as at the start: nothing is known then.
        elapsed = now - self._grown_at
        if self._share == 1.0 or elapsed <= 0:
            return
        self._grown_at = now
        root = sqrt(self._share) + elapsed / _RECOVERY_SECONDS
        self._set_share(min(1.0, root * root), now)

    def _set_share(self, share: float, now: float) -> None:
        self._share = share
        self._records.set_rate(share * self._record_rate, now)
        self._bytes.set_rate(share * self._byte_rate, now)


def _empty(bucket: TokenBucket, now: float) -> None:
    bucket.charge(max(0.0, bucket.available(now)), now)
