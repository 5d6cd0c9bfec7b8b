"""Where the services of a stack are, in the form the ecosystem's tools understand."""

from collections.abc import Mapping
from dataclasses import dataclass, field

REGION = "us-east-1"
"""The region of every local stack; kinesis-mock and MiniStack know it without being told."""

FAKE_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""Credentials that no AWS account has. Local engines take any."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a stack's services are.

    Attributes:
        aws: The URL for every AWS service, or None for AWS itself.
        kinesis: The URL for Kinesis where it differs from `aws`, or None.
        mqtt_url: The broker, `mqtt://user:password@host:port`, or None when there is none.
            It is left out of `repr` because it holds a password.
    """

    aws: str | None
    kinesis: str | None
    mqtt_url: str | None = field(repr=False)

    def environment(self) -> dict[str, str]:
        """Return the standard variables that lead boto3, the AWS CLI and our programs here.

        For AWS itself this is empty but for the broker: region and credentials are the user's.
        """
        variables: dict[str, str] = {}
        if self.aws is not None:
            variables |= {
                "AWS_ENDPOINT_URL": self.aws,
                "AWS_ENDPOINT_URL_KINESIS": self.kinesis or self.aws,
                # Were it true, boto3 would pass over the two above and reach AWS.
                "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
                "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION,
                # Without it the SDKs may ask a cloud machine's metadata service for credentials.
                "AWS_EC2_METADATA_DISABLED": "true",
                **FAKE_CREDENTIALS,
            }
        if self.mqtt_url is not None:
            variables["MQTT_URL"] = self.mqtt_url
        return variables

    def applied_to(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment for a child process: `environ`, led to this stack.

        For a local stack no AWS setting of the surroundings (profile, session token, endpoint of a
        single service, `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS`) gets through. For AWS they all do.
        """
        if self.aws is None:
            return dict(environ) | self.environment()
        return without_aws_settings(environ) | self.environment()


def without_aws_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without any `AWS_…` variable, and with no shared AWS configuration files."""
    kept = {name: value for name, value in environ.items() if not name.startswith("AWS_")}
    return kept | {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
