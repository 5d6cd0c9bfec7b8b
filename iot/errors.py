"""What can go wrong in this package."""

from typing import ClassVar


class IotError(Exception):
    """The root of every error the package raises.

    ::

        IotError
        ├── InvalidEndpoint      the broker's address cannot be understood
        ├── ConnectionRefused    the broker answered and said no: wrong password, not authorised
        ├── ConnectionUnready    no session with the broker within the time given     (retriable)
        ├── UnexpectedMessage    a session brings what nothing subscribes to any more
        └── ShadowRequestError   a shadow request was rejected, or had no answer in time

    ``retriable`` says whether the same call may succeed later without anything being changed.
    """

    retriable: ClassVar[bool] = False


class InvalidEndpoint(IotError, ValueError):  # noqa: N818 - it says what is wrong
    """The broker's address is not ``mqtt://[user:password@]host[:port]`` or ``mqtts://…``."""


class ConnectionRefused(IotError):  # noqa: N818 - it says what is wrong
    """The broker refused the session for a reason that another attempt does not change."""


class ConnectionUnready(IotError):  # noqa: N818 - it says what is wrong
    """There was no session, or not every subscription was granted, within the time given."""

    retriable: ClassVar[bool] = True


class UnexpectedMessage(IotError):  # noqa: N818 - it says what is wrong
    """A session that is acknowledged by hand brings messages of a subscription of an earlier run.

    Left unacknowledged they would fill the broker's window, and acknowledged they would be lost.
    """


class ShadowRequestError(IotError):
    """A shadow request was rejected, or was not answered in time.

    Args:
        message: What the service said, or that it said nothing.
        code: AWS IoT's error code, which has the meaning of the HTTP status of that number.
            409 is a version conflict, 404 a shadow that does not exist. None: no answer came.

    Switch on ``code``: AWS may change its texts at any time.
    """

    def __init__(self, message: str, *, code: int | None) -> None:
        super().__init__(message if code is None else f"{code} {message}")
        self.message = message
        self.code = code

    @property
    def retriable(self) -> bool:  # type: ignore[override]
        """True when the service was silent, busy (429) or broken (500)."""
        return self.code is None or self.code in {429, 500}
