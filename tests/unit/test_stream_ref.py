"""A stream by its name and by its ARN."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.stream_ref import stream_argument, stream_name

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
NAMES = st.text(LETTERS, min_size=1, max_size=128)


@given(NAMES)
def test_a_name_stays_a_name(name: str) -> None:
    assert stream_argument(name) == {"StreamName": name}
    assert stream_name(name) == name


@given(
    NAMES,
    st.sampled_from(["aws", "aws-cn", "aws-us-gov", "aws-iso-b"]),
    st.from_regex(r"[0-9]{12}", fullmatch=True),
)
def test_an_arn_stays_an_arn_and_names_its_stream(name: str, partition: str, account: str) -> None:
    arn = f"arn:{partition}:kinesis:us-east-1:{account}:stream/{name}"
    assert stream_argument(arn) == {"StreamARN": arn}
    assert stream_name(arn) == name


@pytest.mark.parametrize(
    "stream",
    [
        "",
        "x" * 129,
        "two words",
        "name\n",
        "größe",
        "orders/eu",
        "arn:aws:kinesis:eu-west-1:12345678901:stream/eleven-digits",
        "arn:aws:kinesis:eu-west-1:123456789012:stream/",
        f"arn:aws:kinesis:eu-west-1:123456789012:stream/{'x' * 129}",
        "arn:aws:kinesis:eu-west-1:123456789012:stream/orders\n",
        "arn:aws:kinesis:eu-west-1:123456789012:stream/orders/consumer/c:1",
        "arn:aws:dynamodb:eu-west-1:123456789012:table/orders",
        " arn:aws:kinesis:eu-west-1:123456789012:stream/orders",
    ],
)
def test_anything_else_is_refused_with_what_it_should_be(stream: str) -> None:
    for read in (stream_argument, stream_name):
        with pytest.raises(ValueError, match="neither the name of a stream") as caught:
            read(stream)
        assert repr(stream) in str(caught.value)
