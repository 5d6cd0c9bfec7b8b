"""Where a broker is: the URL that every MQTT program here takes."""

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from iot.errors import InvalidEndpoint


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a broker is and how to introduce oneself."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read ``mqtt://[user:password@]host[:port]`` (1883) or ``mqtts://…`` (TLS, 8883).

        Raises:
            InvalidEndpoint: for anything else. The message does not repeat the password.
        """
        form = "expected mqtt://[user:password@]host[:port] or mqtts://…"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")  # what the resolver will do, which would be too late
        except ValueError:
            # Its own words may repeat a piece of a password that was not percent-encoded.
            raise InvalidEndpoint(
                f"{form}, with a port from 1 to 65535, the password percent-encoded"
            ) from None
        if parts.scheme not in {"mqtt", "mqtts"} or not host or port == 0:
            raise InvalidEndpoint(f"{form}, got scheme {parts.scheme!r}, host {host!r}")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise InvalidEndpoint(f"{form}, got something after the port")
        tls = parts.scheme == "mqtts"
        return cls(
            host,
            port or (8883 if tls else 1883),
            None if parts.username is None else unquote(parts.username),
            None if parts.password is None else unquote(parts.password),
            tls,
        )

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"
