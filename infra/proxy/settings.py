"""What a proxy is told when it is started."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """How one proxy is to behave.

    Args:
        upstream: The engine that requests are sent on to, `http://host:port`; never AWS.
        host: The address to listen on.
        port: The port for plain HTTP; 0 takes a free one.
        tls: Whether to listen for TLS as well.
        tls_port: The port for TLS; 0 takes a free one.
        ca_file: Where the certificate of the throw-away authority is written, for clients to trust.
        quotas: Whether to refuse what AWS would refuse for its rate or size.
        corrections: Names of what is put right in the engine's answers.
        scenario: A TOML file of faults.
        seed: For the faults' chances, in place of the scenario's own.
        time_scale: How many times faster than AWS the long times pass: an iterator lives
            300 s / `time_scale`.
    """

    upstream: str
    host: str = "127.0.0.1"
    port: int = 0
    tls: bool = False
    tls_port: int = 0
    ca_file: Path | None = None
    quotas: bool = False
    corrections: frozenset[str] = frozenset()
    scenario: Path | None = None
    seed: int | None = None
    time_scale: float = 1.0
