"""Never AWS by accident.

AWS has to be named (`--stack aws`). Everything else must have an endpoint that is not AWS, because
boto3 without an endpoint, on a machine with credentials, goes to the account of whoever is logged
in there.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from infra.errors import AwsRefusedError
from records.aws_hosts import is_aws_endpoint

_TRUE = ("true", "1")


def is_loopback(url: str) -> bool:
    """Say whether a URL leads to this machine and cannot lead elsewhere."""
    host = (urlsplit(url).hostname or "").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_local(environ: Mapping[str, str]) -> str:
    """Return the endpoint in an environment, having made sure that nothing in it leads to AWS.

    Args:
        environ: The variables that boto3 would read.

    Returns:
        The value of `AWS_ENDPOINT_URL`.

    Raises:
        AwsRefusedError: There is no endpoint for every service, boto3 would ignore it, or one
            of the endpoints is AWS.
    """
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() in _TRUE:
        raise AwsRefusedError(
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS is set, so boto3 would ignore the local endpoint "
            "and reach AWS; unset it, or say `--stack aws` if AWS is what you want"
        )
    endpoint = environ.get("AWS_ENDPOINT_URL", "")
    if not endpoint:
        raise AwsRefusedError(
            "AWS_ENDPOINT_URL is not set, so boto3 would reach AWS with whatever credentials this "
            'machine has; start a local stack with `kit up` and run `eval "$(kit env)"`, or say '
            "`--stack aws` if AWS is what you want"
        )
    for name, value in sorted(environ.items()):
        if name.startswith("AWS_ENDPOINT_URL") and value:
            refuse_aws(value, name)
    return endpoint


def refuse_aws(url: str, source: str) -> None:
    """Raise unless a URL is a well-formed address outside AWS.

    Args:
        url: What to look at.
        source: Where it comes from, for the message.

    Raises:
        AwsRefusedError: It leads to AWS, or it is no http(s) URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AwsRefusedError(f"{source} is not an http(s) URL: {url!r}")
    if is_aws_endpoint(url):
        raise AwsRefusedError(
            f"{source} leads to AWS ({parts.hostname}), which takes `--stack aws`"
        )
