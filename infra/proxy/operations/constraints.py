"""What a request has to keep whatever it asks for: it is held against AWS' service model."""

from infra.proxy.corrections.names import REQUEST_CONSTRAINTS
from infra.proxy.corrections.request_constraints import find_fault
from infra.proxy.desk import Desk
from infra.proxy.messages import Call, Refusal


def broken_constraint(call: Call, desk: Desk) -> Refusal | None:
    """Return why AWS would refuse a call by its model alone; None if it would not.

    Raises:
        MalformedBodyError: The body is no map in the protocol of the call.
    """
    if REQUEST_CONSTRAINTS not in desk.corrections:
        return None
    refusal = find_fault(call.operation, call.parameters)
    if refusal is not None:
        desk.tally.corrected[REQUEST_CONSTRAINTS] += 1
    return refusal
