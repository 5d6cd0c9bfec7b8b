"""A Kinesis client that goes wherever boto3's goes, and takes a fraction of its CPU."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import HTTPClientError
from botocore.handlers import add_recursion_detection_header
from botocore.utils import get_environ_proxies
from botocore.validate import ParamValidationDecorator

from wire.connections import Connections
from wire.exchange import Answer
from wire.protocol import Operation

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

OPERATIONS: Final = {
    "put_record": "PutRecord",
    "put_records": "PutRecords",
    "get_records": "GetRecords",
    "get_shard_iterator": "GetShardIterator",
    "list_shards": "ListShards",
    "describe_stream_summary": "DescribeStreamSummary",
}
"""What goes over the wire as CBOR, under the names of boto3's methods."""


def client(
    *, session: boto3.Session | None = None, config: Config | None = None, **arguments: Any
) -> "KinesisClient":
    """Return a Kinesis client: arguments, methods, answers and exceptions are boto3's.

    PutRecord, PutRecords, GetRecords, GetShardIterator, ListShards and DescribeStreamSummary go
    as CBOR, the protocol that AWS's SDK for Java speaks with Kinesis. All else of boto3's client
    is there too, and is boto3's: `exceptions`, `meta`, and the other operations, paginators and
    waiters, which retry as `config` says. Credentials, region, endpoint, signature, time-outs, TLS
    and proxies are as for boto3's client.

    What is different from it, for the six operations:

    * A call is one request, whatever `config` says about retries. The callers here retry, for they
      know which records failed. `ReadTimeoutError`, `ConnectionClosedError` and `HTTPClientError`
      mean that the request may have been carried out. `SSLError` means that it was not: what goes
      wrong with TLS later than the handshake is a `ConnectionClosedError`, except through a proxy.
    * An answer that cannot be read is an `HTTPClientError`; boto3 returns one without members.
    * Milliseconds are the finest that a timestamp among the parameters can say.
    * The `User-Agent` is that of `meta.config`, without the marks that botocore sets in it for each
      request; there are none of the `amz-sdk-` headers, which are about retries.
    * Of botocore's events only those about the endpoint and the signature are emitted: moto's
      mocks and tracers that hook into the others do not see the calls.

    Safe between threads. A forked child makes connections of its own, except through a proxy.

    Args:
        session: Whose client it is; boto3's default session if None.
        config: As for boto3.
        **arguments: As for `boto3.client("kinesis", ...)`: `region_name`, `endpoint_url`, `verify`
            and so on.

    Raises:
        BotoCoreError: what boto3 raises when it makes a client, such as `NoRegionError`.
    """
    maker: Any = session or boto3
    plain = maker.client("kinesis", config=config, **arguments)
    return cast("KinesisClient", WireKinesis(plain))


class WireKinesis:
    """Six operations as CBOR, and everything else by the boto3 client beneath; see `client`."""

    total_max_attempts: Final = 1
    """How often a call of the six is sent; what `meta.config` says of it holds for all others."""

    def __init__(self, plain: Any) -> None:
        self._plain: Final = plain
        self._config: Final[Any] = plain.meta.config
        model = plain.meta.service_model
        # Only under these names, which are years old, does botocore say what `parameter_validation`
        # of the profile, `verify` and AWS_CA_BUNDLE, or `tcp_keepalive` came to.
        validate = isinstance(plain._serializer, ParamValidationDecorator)  # noqa: SLF001
        self._operations: Final = {
            name: Operation(model.operation_model(operation), validate=validate)
            for name, operation in OPERATIONS.items()
        }
        http_session = plain._endpoint.http_session  # noqa: SLF001
        self._connections: Final = Connections(
            connect_timeout=self._config.connect_timeout,
            read_timeout=self._config.read_timeout,
            max_idle=self._config.max_pool_connections,
            verify=http_session._verify,  # noqa: SLF001
            client_cert=self._config.client_cert,
            socket_options=http_session._socket_options,  # noqa: SLF001
        )
        # As botocore does, once: it reads the whole environment.
        proxies = self._config.proxies
        self._proxies: Final[Mapping[str, str]] = (
            get_environ_proxies(plain.meta.endpoint_url) if proxies is None else proxies
        )

    def put_record(self, **parameters: Any) -> Any:
        """Put one record."""
        return self._call("put_record", parameters)

    def put_records(self, **parameters: Any) -> Any:
        """Put up to 500 records."""
        return self._call("put_records", parameters)

    def get_records(self, **parameters: Any) -> Any:
        """Read records from where an iterator stands."""
        return self._call("get_records", parameters)

    def get_shard_iterator(self, **parameters: Any) -> Any:
        """Return an iterator for a position in a shard."""
        return self._call("get_shard_iterator", parameters)

    def list_shards(self, **parameters: Any) -> Any:
        """List shards, a page at a time."""
        return self._call("list_shards", parameters)

    def describe_stream_summary(self, **parameters: Any) -> Any:
        """Describe a stream without its shards."""
        return self._call("describe_stream_summary", parameters)

    def close(self) -> None:
        """Close the connections, those in use after their calls; a call after it makes new ones."""
        self._connections.close()
        self._plain.close()

    def __getattr__(self, name: str) -> Any:
        """Return what is boto3's."""
        if name == "_plain":  # not there yet, as while `copy` makes one
            raise AttributeError(name)
        return getattr(self._plain, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._plain)})

    def _call(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        operation = self._operations[name]
        answer = self._send(self._signed(operation, parameters))
        parsed = operation.decode(*answer)
        if answer.status >= 300:
            error = self._plain.exceptions.from_code(parsed.get("Error", {}).get("Code"))
            raise error(parsed, operation.name)
        return parsed

    def _signed(self, operation: Operation, parameters: Mapping[str, Any]) -> AWSRequest:
        model = operation.model
        context: dict[str, Any] = {
            "client_region": self._plain.meta.region_name,
            "client_config": self._config,
            "auth_type": model.resolved_auth_type,
            "auth_options": model.service_model.metadata.get("auth"),
        }
        # This and the signer are what botocore's own requests go through. The endpoint may be
        # another for each account (of the credentials or of a StreamARN), and for data and control.
        url, headers, _ = self._plain._resolve_endpoint_ruleset(  # noqa: SLF001
            model, parameters, context
        )
        headers = {"User-Agent": self._config.user_agent, **operation.headers, **headers}
        add_recursion_detection_header({"headers": headers})  # only in AWS Lambda
        url = url if urlsplit(url).path else f"{url}/"
        request = AWSRequest("POST", url, headers, operation.encode(parameters))
        request.context = context
        self._plain._request_signer.sign(operation.name, request)  # noqa: SLF001
        return request

    def _send(self, request: Any) -> Answer:
        if not self._proxies.get(urlsplit(request.url).scheme):
            return self._connections.post(request.url, dict(request.headers.items()), request.data)
        # It knows tunnels and the proxy's own credentials and certificates.
        request.data = bytes(request.data)
        endpoint = self._plain._endpoint  # noqa: SLF001
        answer = endpoint.http_session.send(endpoint.prepare_request(request))
        if answer.status_code < 200:
            # It takes an interim answer for the answer: the next call would get this one's.
            endpoint.http_session.close()
            raise HTTPClientError(error=f"only an interim answer, {answer.status_code}")
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status_code, headers, answer.content)
