"""From `sqlite:PATH`, `dynamodb:TABLE` or `python:MODULE:CALLABLE` to a sink."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from consumers.errors import SetupError
from consumers.sinks.base import Sink, checked_horizon
from consumers.sinks.sqlite import SqliteSink

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

FORMS: Final = "sqlite:PATH, dynamodb:TABLE or python:MODULE:CALLABLE"


def open_sink(spec: str, *, retention: float, horizon: float | None = None) -> Sink:
    """Open the sink that `spec` names.

    Args:
        spec: `sqlite:PATH`; `dynamodb:TABLE`; or `python:MODULE:CALLABLE` for a sink of your
            own: the callable gets `retention` and `horizon` as keywords and returns the sink.
        retention: Of the stream, seconds.
        horizon: How long record IDs are remembered, seconds; by default the retention and a day.

    Raises:
        SetupError: The sink cannot be opened, or the horizon is shorter than the retention.
    """
    kind, _, name = spec.partition(":")
    match kind:
        case "sqlite" if name:
            return SqliteSink(name, retention=retention, horizon=horizon)
        case "dynamodb" if name:
            from consumers.sinks.dynamodb import DynamoDBSink  # noqa: PLC0415 - as in _dynamodb

            return DynamoDBSink(_dynamodb(), name, retention=retention, horizon=horizon)
        case "python" if ":" in name:
            module, _, attribute = name.partition(":")
            try:
                make = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise SetupError(f"{spec} cannot be imported: {error}") from error
            sink: Sink = make(retention=retention, horizon=checked_horizon(horizon, retention))
            return sink
        case _:
            raise SetupError(f"a sink is {FORMS}, not {spec!r}")


def prepare_sink(spec: str, *, retention: float, horizon: float | None = None) -> str:
    """Make what the sink needs, once, before several processes open it.

    Returns:
        The same sink, named so that it is found from any working directory.

    Raises:
        SetupError: It cannot be made.
    """
    kind, _, name = spec.partition(":")
    if kind == "dynamodb" and name:
        from consumers.sinks.dynamodb import ensure_table  # noqa: PLC0415 - as in _dynamodb

        ensure_table(_dynamodb(), name)
    open_sink(spec, retention=retention, horizon=horizon).close()
    return f"sqlite:{Path(name).absolute()}" if kind == "sqlite" else spec


def _dynamodb() -> "DynamoDBClient":
    # Imported here, because it takes 30 MB in each child of a worker whose sink is another one.
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    return boto3.client("dynamodb", config=Config(retries={"mode": "standard"}))
