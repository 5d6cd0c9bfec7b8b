"""The errors of the ground the toolkit stands on."""

from typing import ClassVar


class InfraError(Exception):
    """Anything that went wrong beneath the code that is being run or tested.

    ::

        InfraError
        ├── ProcessError     a child ended early, or was not ready in time
        ├── StackError       a program, an image or a running stack is missing
        ├── AwsRefusedError  the call would have reached AWS without being asked to
        └── ProvisionError   a resource exists, but is not what was asked for

    Attributes:
        retriable: Whether the same call may succeed when it is made again unchanged.
    """

    retriable: ClassVar[bool] = False


class ProcessError(InfraError):
    """A child process ended before it was ready, or did not become ready in time."""

    retriable: ClassVar[bool] = True


class StackError(InfraError):
    """Something a stack needs is not on this machine, or the stack is not running."""


class AwsRefusedError(InfraError):
    """AWS would have been reached although nobody asked for it."""


class ProvisionError(InfraError):
    """A stream, table, bucket or queue exists in another shape than the one asked for."""
