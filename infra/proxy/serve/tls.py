"""A certificate for this run, signed by an authority nobody else has."""

import ssl
from dataclasses import dataclass
from typing import Final

import trustme

ALPN: Final = ("h2", "http/1.1")

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What a server shows, and what its clients need to believe it.

    Attributes:
        context: For the server.
        ca_pem: The authority's certificate, for `AWS_CA_BUNDLE` or `verify=` by way of a file.
    """

    context: ssl.SSLContext
    ca_pem: bytes


def throw_away_identity(*hosts: str) -> TlsIdentity:
    """Make an authority and a certificate that is good for this machine.

    Args:
        hosts: Further names or addresses that clients call it by.
    """
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(ALPN)
    names = dict.fromkeys((*_LOCAL, *hosts))
    authority.issue_cert(*names).configure_cert(context)
    return TlsIdentity(context, authority.cert_pem.bytes())
