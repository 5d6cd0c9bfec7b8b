"""A producer that packs many small records in KPL aggregates, in order for each key.

`producer` has the thread and the client; `machine` decides, and does neither I/O nor timekeeping;
`lanes` packs the records of a shard; `values` is what passes between them.
"""

from producers.aggregated.producer import AggregatingProducer
from producers.aggregated.values import PutResult

__all__ = ["AggregatingProducer", "PutResult"]
