"""Which hosts are AWS's: the one list that keeps local things local. Pure."""

from typing import Final
from urllib.parse import urlsplit

AWS_DOMAINS: Final = (
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "amazonaws-us-gov.com",
    "api.aws",
    "api.amazonwebservices.com.cn",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "aws.dev",
)
"""The domains of the AWS partitions' endpoints (AWS General Reference, "AWS service endpoints")."""


def is_aws_endpoint(url: str) -> bool:
    """Say whether a URL leads to AWS, a VPC endpoint included.

    Args:
        url: A URL with or without a scheme, such as `https://kinesis.us-east-1.amazonaws.com`.
    """
    host = (urlsplit(url if "//" in url else f"//{url}").hostname or "").rstrip(".").lower()
    return any(host == domain or host.endswith(f".{domain}") for domain in AWS_DOMAINS)
