"""The producer that packs many small records in KPL aggregates, and loses none of them.

Which producer when: this one for many small records, as they come. A record waits for others, for
half of the linger in the mean, and that is the reason not to use it, as it is with the KPL; where
somebody waits for a record take `PutRecord` (a millisecond and the way to AWS, but each record is a
PUT payload unit of 25 KB, where here hundreds share two), and for a batch that is there as a whole
`producers.put_records`. docs/which-producer.md has the figures.

A record on its way: `producer` takes it and gives it its ID and hash; `router` knows its shard;
`lane` keeps the line of that shard, `limiter` its quota; `pack` makes one Kinesis record of many;
`machine` decides what leaves, and what an answer means; `crew` has the threads and `calls` the
client. `machine` and what is below it do neither I/O nor timekeeping. `aio` is the front for
asyncio, `prometheus` and `emf` are outputs of `metrics`.
"""

from producers.aggregated.producer import AggregatingProducer
from producers.aggregated.values import PutResult
from producers.errors import Attempt

__all__ = ["AggregatingProducer", "Attempt", "PutResult"]
