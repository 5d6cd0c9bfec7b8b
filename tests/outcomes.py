"""What an aggregating producer's machine has settled, record by record."""

from producers.aggregated.values import Confirmed, Item, PutResult, Settled
from producers.errors import DeliveryError


def outcomes(settled: list[Settled]) -> list[tuple[Item, PutResult | DeliveryError]]:
    """Return each record with its result or its error, in the order in which they end."""
    found: list[tuple[Item, PutResult | DeliveryError]] = []
    for each in settled:
        if isinstance(each, Confirmed):
            found += [
                (item, each.delivery_of(item).result(place, item.identity))
                for place, item in enumerate(each.items)
            ]
        else:
            found.append((each.item, each.error))
    return found
