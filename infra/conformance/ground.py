"""What checks stand on: clients, fresh and shared streams and tables, and patience with a bound.

Everything made here is deleted by `Ground.clean_up`. The clients send what they are told without
validating it first, so that a check can ask for what AWS refuses.
"""

import contextlib
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient
    from types_boto3_kinesis.type_defs import StreamDescriptionSummaryTypeDef

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""How long engines on this machine may take to make or change something."""

POLL_SECONDS = 0.1
THROTTLE_WAIT_SECONDS = 0.5
THROTTLE_ATTEMPTS = 40
CLEAN_UP_JOBS = 8
DELETE_ATTEMPTS = 60
DELETE_PAUSE_SECONDS = 1.0
_THROTTLES = frozenset(
    {"LimitExceededException", "ProvisionedThroughputExceededException", "ThrottlingException"}
)
# Names that AWS refuses are asked for as well; what has such a name was never made.
_GONE = frozenset({"ResourceNotFoundException", "ValidationException", "InvalidArgumentException"})
_NOT_YET = frozenset({"ResourceInUseException", "LimitExceededException"})
"""It is still being made or changed, or too many are being deleted at once."""


class Deviation(Exception):  # noqa: N818 - the finding of a check, not something that went wrong
    """The endpoint does not do what AWS documents.

    Attributes:
        expected: What AWS does.
        found: What the endpoint did.
    """

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found


class StoppedError(Exception):
    """The check has used up its time, or the run is being stopped."""


class Ground:
    """Clients and resources for all checks of one run; safe to use from several threads.

    Args:
        session: Where the clients come from; None is boto3's own rules.
        patience: How long a stream, table or consumer may take to become what it is to be, in
            seconds.

    Attributes:
        patience: As given.
        kinesis: A Kinesis client that sees every error except throttling, which it waits out.
        kinesis_throttled: A Kinesis client that sees every error.
        dynamodb: A DynamoDB client that sees every error except throttling.
        dynamodb_throttled: A DynamoDB client that sees every error.
    """

    def __init__(
        self, session: boto3.session.Session | None = None, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        session = session or boto3.session.Session()
        self.patience = patience
        self._check = threading.local()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._once: dict[object, Future[Any]] = {}
        self._made: dict[tuple[str, str], object] = {}
        self._cleaner_kinesis: KinesisClient = session.client("kinesis", config=_config())
        self._cleaner_dynamodb: DynamoDBClient = session.client("dynamodb", config=_config())
        self.kinesis: KinesisClient = self._client(session, "kinesis", patient=True)
        self.kinesis_throttled: KinesisClient = self._client(session, "kinesis", patient=False)
        self.dynamodb: DynamoDBClient = self._client(session, "dynamodb", patient=True)
        self.dynamodb_throttled: DynamoDBClient = self._client(session, "dynamodb", patient=False)

    def stream_name(self, prefix: str = "conformance") -> str:
        """Return a name for a stream that the check makes itself; it is deleted for the check."""
        return self._name("stream", prefix)

    def stream(self, shards: int | None = 1) -> str:
        """Make a stream, wait until it is ACTIVE and return its name; None is on demand."""
        name = self.stream_name()
        if shards is None:
            self.kinesis.create_stream(
                StreamName=name, StreamModeDetails={"StreamMode": "ON_DEMAND"}
            )
        else:
            self.kinesis.create_stream(StreamName=name, ShardCount=shards)
        self.active(name)
        return name

    def shared_stream(self, shards: int = 1) -> str:
        """Return an ACTIVE stream that other checks use too: read its shape, put nothing there."""
        return self.once(("shared stream", shards), lambda: self.stream(shards))

    def active(self, name: str) -> "StreamDescriptionSummaryTypeDef":
        """Wait until a stream is ACTIVE, and return its summary."""

        def look() -> "StreamDescriptionSummaryTypeDef | None":
            found = self.kinesis.describe_stream_summary(StreamName=name)
            summary = found["StreamDescriptionSummary"]
            return summary if summary["StreamStatus"] == "ACTIVE" else None

        return self.eventually(look, expected=f"stream {name} ACTIVE")

    def arn(self, name: str) -> str:
        """Return the ARN of a stream."""
        found = self.kinesis.describe_stream_summary(StreamName=name)
        return found["StreamDescriptionSummary"]["StreamARN"]

    def table_name(self, prefix: str = "conformance") -> str:
        """Return a name for a table that the check makes itself; it is deleted for the check."""
        return self._name("table", prefix)

    def table(self, key: str = "id", sort: str | None = None, **more: Any) -> str:
        """Make an on-demand table with string keys, wait until it is ACTIVE, return its name.

        Args:
            key: The partition key.
            sort: The sort key, or None.
            more: Further arguments of `CreateTable`, which replace those made of the keys.
        """
        name = self.table_name()
        keys = {key: "HASH"} | ({} if sort is None else {sort: "RANGE"})
        definition: dict[str, Any] = {
            "KeySchema": [{"AttributeName": k, "KeyType": kind} for k, kind in keys.items()],
            "AttributeDefinitions": [{"AttributeName": k, "AttributeType": "S"} for k in keys],
            "BillingMode": "PAY_PER_REQUEST",
        }
        self.dynamodb.create_table(TableName=name, **(definition | more))
        self.eventually(
            lambda: (
                self.dynamodb.describe_table(TableName=name)["Table"]["TableStatus"] == "ACTIVE"
            ),
            expected=f"table {name} ACTIVE",
        )
        return name

    def unique(self, prefix: str = "conformance") -> str:
        """Return a name that nobody else uses."""
        return f"{prefix}-{uuid.uuid4().hex[:12]}"

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Return what `make` returned to the first caller with this key, or raise what it raised.

        It is for what several checks look at and none changes.
        """
        with self._lock:
            first = key not in self._once
            future: Future[T] = self._once.setdefault(key, Future())
        if first:
            mine, self._check.mine = getattr(self._check, "mine", None), None
            try:
                future.set_result(make())
            except BaseException as error:  # noqa: BLE001 - the callers get it, the first one too
                future.set_exception(error)
            finally:
                self._check.mine = mine
        return future.result(timeout=self._remaining())

    def eventually(
        self, look: Callable[[], T | None], *, expected: str, within: float | None = None
    ) -> T:
        """Look until something true is seen, and return that.

        Args:
            look: Returns something false for "not yet"; what it raises goes to the caller.
            expected: What it waits for.
            within: Seconds; None is the ground's patience.

        Raises:
            Deviation: It is not seen in time.
        """
        within = self.patience if within is None else within
        end = time.monotonic() + min(within, self._remaining())
        while True:
            if seen := look():
                return seen
            if time.monotonic() >= end:
                raise Deviation(f"{expected} within {within:g} s", f"{seen!r}")
            self.pause(POLL_SECONDS)

    def pause(self, seconds: float) -> None:
        """Sleep, but no longer than the check may take."""
        self._stopped.wait(min(seconds, self._remaining()))
        self._raise_when_over()

    @contextlib.contextmanager
    def for_a_check(self, seconds: float) -> Iterator[None]:
        """Let no call of this thread begin after these seconds; delete what it made, at the end.

        What was made in `once`, or cannot be deleted yet, is left to `clean_up`.
        """
        self._check.deadline = time.monotonic() + seconds
        self._check.mine = mine = object()
        try:
            yield
        finally:
            self._check.mine = None
            self._check.deadline = math.inf
            with self._lock:
                made = [each for each, owner in self._made.items() if owner is mine]
            for each in made:
                if not self._stopped.is_set() and self._delete(*each, attempts=1) is None:
                    with self._lock:
                        del self._made[each]

    def stop(self) -> None:
        """Let no call of any check begin from now on."""
        self._stopped.set()

    def clean_up(self) -> list[str]:
        """Delete every stream and table that was made here; return what could not be deleted."""
        with self._lock:
            made = list(self._made)
            self._made.clear()
        with ThreadPoolExecutor(CLEAN_UP_JOBS) as pool:
            left = pool.map(lambda each: self._delete(*each, attempts=DELETE_ATTEMPTS), made)
            return [problem for problem in left if problem is not None]

    def _name(self, kind: str, prefix: str) -> str:
        name = self.unique(prefix)
        with self._lock:
            self._made[kind, name] = getattr(self._check, "mine", None)
        return name

    def _delete(self, kind: str, name: str, *, attempts: int) -> str | None:
        for attempt in range(attempts):
            if attempt:
                time.sleep(DELETE_PAUSE_SECONDS)
            try:
                if kind == "stream":
                    self._cleaner_kinesis.delete_stream(
                        StreamName=name, EnforceConsumerDeletion=True
                    )
                else:
                    self._cleaner_dynamodb.delete_table(TableName=name)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in _GONE:
                    return None
                if code not in _NOT_YET:
                    return f"{name}: {error}"
            except BotoCoreError as error:
                return f"{name}: {error}"
            else:
                return None
        return f"{name}: still in use"

    def _client(self, session: boto3.session.Session, service: str, *, patient: bool) -> Any:
        # Retries are ours alone: the SDK's would hide an error that a check is to see.
        client: Any = session.client(service, config=_config(attempts=1))  # type: ignore[call-overload] # a name among many
        client.meta.events.register("before-send", self._raise_when_over)
        if patient:
            client.meta.events.register(f"needs-retry.{service}", self._wait_out_throttling)
        return client

    def _wait_out_throttling(
        self,
        response: "tuple[object, dict[str, Any]] | None" = None,
        attempts: int = 1,
        **_: object,
    ) -> float | None:
        """Return after how many seconds to repeat a request, if it met a rate limit."""
        if response is None or attempts >= THROTTLE_ATTEMPTS:
            return None
        error = response[1].get("Error", {})
        # The same codes also tell of limits that no waiting mends, such as the number of shards.
        message = error.get("Message", "").lower()
        passes = "rate" in message or "creating" in message  # at most five streams are being made
        return THROTTLE_WAIT_SECONDS if passes and error.get("Code") in _THROTTLES else None

    def _raise_when_over(self, **_: object) -> None:
        if self._stopped.is_set():
            raise StoppedError("the run is being stopped")
        if self._remaining() <= 0:
            raise StoppedError("the check has used up its time")

    def _remaining(self) -> float:
        at: float = getattr(self._check, "deadline", math.inf)
        return max(0.0, min(at - time.monotonic(), threading.TIMEOUT_MAX))


def _config(*, attempts: int = 2) -> Config:
    return Config(
        retries={"total_max_attempts": attempts},
        connect_timeout=5,
        read_timeout=20,
        max_pool_connections=32,
        parameter_validation=False,
    )
