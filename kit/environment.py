"""Leads this process, and the programs it starts, to a stack."""

import os

from infra.stack.endpoints import Endpoints


def adopt(endpoints: Endpoints) -> None:
    """Make the process's environment that of a stack, so that boto3's own rules find it.

    For a local stack no profile, credential or endpoint of the surroundings stays behind.
    """
    environment = endpoints.applied_to(os.environ)
    os.environ.clear()
    os.environ.update(environment)
