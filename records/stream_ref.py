"""A stream as people name it, by its name or by its ARN, in the form that an API call takes."""

import re
from typing import Final, TypedDict

# AWS: Kinesis Data Streams API Reference, PutRecords, StreamName and StreamARN; the ARN ends in
# a stream's name, so that the ARN of a consumer, which goes on after it, is told apart.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}", re.ASCII)
_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:kinesis:[a-z0-9-]*:\d{12}:stream/([a-zA-Z0-9_.-]{1,128})", re.ASCII
)


class StreamArgument(TypedDict, total=False):
    """The one argument that names the stream: `client.put_records(**argument, Records=...)`."""

    StreamName: str
    StreamARN: str


def stream_argument(stream: str) -> StreamArgument:
    """Return the argument of an API call that names this stream.

    Args:
        stream: Its name (1 to 128 letters, digits, `_`, `.` and `-`), or its ARN.

    Raises:
        ValueError: it is neither.

    AWS: Kinesis Data Streams API Reference, PutRecords.
    """
    if _NAME.fullmatch(stream):
        return {"StreamName": stream}
    _name_in_arn(stream)
    return {"StreamARN": stream}


def stream_name(stream: str) -> str:
    """Return the name of a stream that is given by its name or its ARN.

    Raises:
        ValueError: it is neither.
    """
    return stream if _NAME.fullmatch(stream) else _name_in_arn(stream)


def _name_in_arn(stream: str) -> str:
    if found := _ARN.fullmatch(stream):
        return found[1]
    raise ValueError(
        f"{stream!r} is neither the name of a stream (1 to 128 letters, digits, '_', '.', '-')"
        " nor its ARN (arn:aws:kinesis:REGION:ACCOUNT:stream/NAME)"
    )
