"""Kept HTTP/1.1 connections: a request goes out once, and an answer or an exception comes back."""

import os
import socket
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.parse import SplitResult, urlsplit

from botocore import exceptions as sdk
from botocore.httpsession import create_urllib3_context, get_cert_path
from urllib3.util import wait_for_read

from wire.body import Body
from wire.exchange import Answer, exchange

Place = tuple[str, str, int | None]
Idle = dict[Place, deque[socket.socket]]


class Connections:
    """A pool of connections to any number of hosts. Safe between threads, and after a fork.

    Args:
        connect_timeout: Seconds to connect, and for TLS to be agreed on.
        read_timeout: Seconds that the other side may be silent.
        max_idle: How many unused connections to one host are kept.
        verify: Whether the certificate is checked; a path names other authorities than botocore's.
        client_cert: The path of a certificate with its key, or the paths of both.
        socket_options: Arguments for `setsockopt`.
    """

    def __init__(
        self,
        *,
        connect_timeout: float,
        read_timeout: float,
        max_idle: int,
        verify: bool | str,
        client_cert: str | tuple[str, str] | None,
        socket_options: Sequence[tuple[int, int, int]],
    ) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._max_idle = max_idle
        self._verify = verify
        self._client_cert = client_cert
        self._socket_options = socket_options
        self._tls: ssl.SSLContext | None = None
        self._idle: Idle = {}
        self._process_id = os.getpid()

    def post(self, url: str, headers: Mapping[str, str], body: Body) -> Answer:
        """Send a request, once, and return the answer.

        Raises:
            EndpointConnectionError, ConnectTimeoutError, SSLError: there is no connection, so
                nothing was sent.
            ReadTimeoutError, ConnectionClosedError, HTTPClientError: the request may have been
                carried out.
        """
        if self._process_id != os.getpid():
            # They belong to the parent; closing a copy tells the server nothing.
            self.close()
            self._process_id = os.getpid()
        target = urlsplit(url)
        place = (target.scheme, target.hostname or "", target.port)
        idle = self._idle
        sock = _taken(idle, place) or self._connect(url, target)
        keep = False
        try:
            answer, keep = exchange(sock, target, headers, body)
        except Exception as error:
            raise _unanswered(error, url) from error
        finally:
            if not keep:  # Ctrl-C too leaves half an exchange behind
                sock.close()
        if keep:
            self._keep(idle, place, sock)
        return answer

    def close(self) -> None:
        """Close each connection that is not in use now, and the others after their calls."""
        idle, self._idle = self._idle, {}
        _drain(idle)

    def __del__(self) -> None:
        self.close()

    def _keep(self, idle: Idle, place: Place, sock: socket.socket) -> None:
        kept = idle.setdefault(place, deque())
        if len(kept) < self._max_idle:
            kept.append(sock)
        else:
            sock.close()
        if self._idle is not idle:  # closed meanwhile
            _drain(idle)

    def _connect(self, url: str, target: SplitResult) -> socket.socket:
        secure = target.scheme == "https"
        context = self._tls_context(url) if secure else None
        host = target.hostname or ""
        port = (443 if secure else 80) if target.port is None else target.port
        sock: socket.socket | None = None
        done = False
        try:
            sock = socket.create_connection((host, port), self._connect_timeout)
            for option in self._socket_options:
                sock.setsockopt(*option)
            if context is not None:
                sock = context.wrap_socket(
                    sock, server_hostname=host, do_handshake_on_connect=False
                )
                sock.do_handshake()
            sock.settimeout(self._read_timeout)
            done = True
        except Exception as error:
            raise _not_connected(error, url) from error
        finally:
            if sock is not None and not done:
                sock.close()
        return sock

    def _tls_context(self, url: str) -> ssl.SSLContext:
        # Reading the authorities takes tens of milliseconds, so it is done once; threads that are
        # the first at the same time each do it. A lock could be held by another thread at a fork.
        if self._tls is None:
            try:
                self._tls = _tls_context(verify=self._verify, client_cert=self._client_cert)
            except OSError as error:  # no such file, or not what it should be
                raise sdk.SSLError(endpoint_url=url, error=error) from error
        return self._tls


def _taken(idle: Idle, place: Place) -> socket.socket | None:
    """Take the connection that was used last, of those that the server has not closed."""
    kept = idle.get(place)
    while kept:
        try:
            sock = kept.pop()
        except IndexError:  # another thread was faster
            break
        # Before a request there is nothing to read but the end.
        if not wait_for_read(sock, timeout=0):
            return sock
        sock.close()
    return None


def _drain(idle: Idle) -> None:
    for kept in list(idle.values()):
        with suppress(IndexError):  # there are no more
            while True:
                kept.pop().close()


def _tls_context(
    *, verify: bool | str, client_cert: str | tuple[str, str] | None
) -> ssl.SSLContext:
    context: ssl.SSLContext = create_urllib3_context()  # the one that botocore starts from
    if verify:
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        authorities: Any = get_cert_path(verify)  # type: ignore[arg-type] # a path too
        context.load_verify_locations(authorities)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if isinstance(client_cert, str):
        context.load_cert_chain(client_cert)
    elif client_cert is not None:
        context.load_cert_chain(*client_cert)
    return context


def _not_connected(error: Exception, url: str) -> sdk.BotoCoreError:
    if isinstance(error, ssl.SSLError):
        return sdk.SSLError(endpoint_url=url, error=error)
    if isinstance(error, TimeoutError):
        return sdk.ConnectTimeoutError(endpoint_url=url, error=error)
    return sdk.EndpointConnectionError(endpoint_url=url, error=error)


def _unanswered(error: Exception, url: str) -> sdk.BotoCoreError:
    if isinstance(error, TimeoutError):
        return sdk.ReadTimeoutError(endpoint_url=url, error=error)
    if isinstance(error, OSError | HTTPException):
        return sdk.ConnectionClosedError(endpoint_url=url, error=error)
    return sdk.HTTPClientError(error=error)
