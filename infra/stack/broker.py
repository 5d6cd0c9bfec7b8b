"""The embedded stack's MQTT broker: Mosquitto where it is installed, else aedes on Node.

Both listen on 127.0.0.1 only, take one user name with a password made at start and no anonymous
client, keep sessions in memory, and drop no queued message.
"""

import base64
import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from infra.errors import ProcessError
from infra.processes import GuardedProcess, start
from infra.stack.health import check_mqtt
from infra.stack.nodejs import NODE_DIR, find_node, npm_package

BIND_ATTEMPTS = 5
"""How often to try another port when somebody else takes the free one that was just found."""

_T = TypeVar("_T")

_USERNAME = "toolkit"

_MOSQUITTO_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

MOSQUITTO_CONFIG = """\
# Nothing is dropped in silence: by default Mosquitto drops QoS 1 messages beyond 1,000 queued for
# one client. 0 means no limit, in messages and in bytes.
max_queued_messages 0
max_queued_bytes 0
# How many messages a client may have unacknowledged, by default 20. The bridge acknowledges what
# the stream has, a round trip later, so this is its window: 1000 carry some 5,000 events a second.
max_inflight_messages 1000
set_tcp_nodelay true
allow_anonymous false
persistence false
log_dest stderr
log_type error
log_type warning
log_type notice
"""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The one user of a stack's broker."""

    username: str
    password: str

    def url(self, address: str) -> str:
        """Return the broker's URL for `host:port`."""
        return f"mqtt://{self.username}:{self.password}@{address}"


def new_credentials() -> Credentials:
    """Make a user with a password that is good for this run only."""
    return Credentials(_USERNAME, secrets.token_urlsafe(18))


def start_broker(log_dir: Path) -> tuple[GuardedProcess, str]:
    """Start a broker and return it with its URL, credentials included.

    Raises:
        ProcessError: The broker does not come up.
        StackError: There is neither Mosquitto nor Node.
    """
    credentials = new_credentials()
    mosquitto = find_mosquitto()
    if mosquitto is None:
        return _start_aedes(log_dir, credentials)
    return on_free_port(lambda port: start_mosquitto(mosquitto, log_dir, credentials, port))


def find_mosquitto() -> str | None:
    """Return the path of an installed Mosquitto broker; it is often not on the search path."""
    return shutil.which("mosquitto") or shutil.which(
        "mosquitto", path=os.pathsep.join(_MOSQUITTO_FOLDERS)
    )


def start_mosquitto(
    program: str, log_dir: Path, credentials: Credentials, port: int
) -> tuple[GuardedProcess, str]:
    """Start Mosquitto on a port of the loopback interface and wait until a client can connect."""
    log_dir.mkdir(parents=True, exist_ok=True)
    passwords = log_dir / "mosquitto.passwd"
    _write_private(passwords, password_line(credentials))
    config = log_dir / "mosquitto.conf"
    # Mosquitto started by root would drop to a user who may not read the password file.
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"{MOSQUITTO_CONFIG}{user}password_file {passwords}\nlistener {port} 127.0.0.1\n"
    )
    url = credentials.url(f"127.0.0.1:{port}")
    process = start(
        [program, "-c", config],
        name="mosquitto",
        log_dir=log_dir,
        ready=lambda: check_mqtt(url) is None,
        ready_timeout=20.0,
        grace=5.0,
    )
    return process, url


def password_line(credentials: Credentials) -> str:
    """Return the line of a Mosquitto (≥ 2.0) password file: PBKDF2 with SHA-512.

    Written here rather than by `mosquitto_passwd`, which takes the password as an argument that any
    user of the machine can see.
    """
    salt = secrets.token_bytes(12)
    iterations = 101  # what mosquitto_passwd uses
    digest = hashlib.pbkdf2_hmac("sha512", credentials.password.encode(), salt, iterations)
    coded = "$".join(base64.b64encode(part).decode() for part in (salt, digest))
    return f"{credentials.username}:$7${iterations}${coded}\n"


def on_free_port(start_on: Callable[[int], _T]) -> _T:
    """Call `start_on` with a free port, and again with another if that one was just taken."""
    for attempt in range(1, BIND_ATTEMPTS + 1):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        try:
            return start_on(port)
        except ProcessError as error:
            if attempt == BIND_ATTEMPTS or "in use" not in str(error):
                raise
    raise AssertionError("unreachable")


def _start_aedes(log_dir: Path, credentials: Credentials) -> tuple[GuardedProcess, str]:
    npm_package("aedes")  # a clear message when it is missing
    process = start(
        [find_node(), NODE_DIR / "broker.mjs"],
        name="aedes",
        log_dir=log_dir,
        env=dict(os.environ)
        | {"MQTT_USERNAME": credentials.username, "MQTT_PASSWORD": credentials.password},
        grace=5.0,
    )
    try:
        address = process.wait_for_line(r"^ready (127\.0\.0\.1:\d+)$", timeout=20.0)[1]
        url = credentials.url(address)
        process.wait_until(lambda: check_mqtt(url) is None, timeout=20.0)
    except BaseException:
        process.close()
        raise
    return process, url


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
