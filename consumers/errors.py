"""What can go wrong while records are taken out of a stream."""

from typing import ClassVar


class ConsumerError(Exception):
    """The root of this package's errors.

    ::

        ConsumerError
        ├── SetupError           nothing was started: a jar, the JVM, a table, a setting is wrong
        ├── SinkError            the sink can never take this record
        ├── ProtocolError        the daemon at the other end of the pipe broke off or off-script
        ├── LeaseLost            another worker reads this shard now; stop, without a checkpoint
        └── CheckpointThrottled  the checkpoint was not written; the same call may succeed later

    `retriable` says whether the same call can succeed when it is repeated.
    """

    retriable: ClassVar[bool] = False


class SetupError(ConsumerError):
    """Nothing was started, because something that is needed is missing, altered or mis-set."""


class SinkError(ConsumerError):
    """The sink can never take this record, however often it is offered."""


class ProtocolError(ConsumerError):
    """The MultiLangDaemon is gone, or said something that its protocol does not allow here."""


class LeaseLost(ConsumerError):  # noqa: N818 - the field's own word, and it reads as what happened
    """Another worker has taken the shard. Its checkpoint is no longer ours to move."""


class CheckpointThrottled(ConsumerError):  # noqa: N818 - as above
    """The lease table refused or did not answer in time; nothing was written."""

    retriable: ClassVar[bool] = True
