import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.corrections.sequence_numbers import MAX_PLACE, SequenceNumber, parse

seconds = st.integers(0, 16**9 - 1)
shards = st.integers(0, 2**31 - 1)
numbers = st.builds(
    SequenceNumber,
    opened=seconds,
    shard=shards,
    place=st.integers(0, MAX_PLACE),
    at=seconds,
    byte=st.integers(0, 255),
)


@given(numbers)
def test_what_is_written_is_read(number: SequenceNumber) -> None:
    assert parse(str(number)) == number


@given(seconds, shards, st.tuples(st.integers(0, MAX_PLACE), seconds), st.data())
def test_numbers_of_a_shard_are_ordered_by_place(
    opened: int, shard: int, one: tuple[int, int], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, MAX_PLACE).filter(lambda value: value != one[0]))
    first = SequenceNumber(opened=opened, shard=shard, place=one[0], at=one[1])
    second = SequenceNumber(opened=opened, shard=shard, place=place, at=data.draw(seconds))
    assert (int(str(first)) < int(str(second))) == (first.place < second.place)


@given(numbers, numbers)
def test_a_shard_that_was_opened_later_has_larger_numbers(
    one: SequenceNumber, other: SequenceNumber
) -> None:
    if one.opened < other.opened:
        assert int(str(one)) < int(str(other))


# The first three are printed in AWS' documentation, the last is kinesis-mock's.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "49590338271490256608559692538361571095921575989136588898",
            SequenceNumber(opened=1542776258, shard=6, place=1734642199, at=1545084650),
        ),
        (
            "49546986683135544286507457936321625675700192471156785154",
            SequenceNumber(opened=1421279230, shard=0, place=469, at=1421279386),
        ),
        ("49546986683135544286507457936375749193702543936338788370", None),
        (
            "49680537142773114067558760659062897751879393551736373250",
            SequenceNumber(opened=1795567338, shard=0, place=1, at=1795567342),
        ),
    ],
)
def test_numbers_from_elsewhere(text: str, expected: SequenceNumber | None) -> None:
    assert parse(text) == expected
    if expected is not None:
        assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "0",
        "9223372036854775807",
        "TRIM_HORIZON",
        "-49680537142773114067558760659062897751879393551736373250",
        " 49680537142773114067558760659062897751879393551736373250",
        "٤٩٦٨٠٥٣٧١٤٢٧٧٣١١٤٠٦٧٥٥٨٧٦٠٦٥٩٠٦٢٨٩٧٧٥١٨٧٩٣٩٣٥٥١٧٣٦٣٧٣٢٥٠",
        "49680537142773114067558760659062897751879393551736373251",  # another version
        "9" * 5000,
        str(int("3" + "0" * 46, 16)),
    ],
)
def test_what_is_no_number_of_this_layout_is_not_read(text: object) -> None:
    assert parse(text) is None


@given(st.text() | st.from_regex(r"\A[0-9]{50,60}\Z"))
def test_reading_never_fails_and_is_never_wrong(text: str) -> None:
    number = parse(text)
    assert number is None or int(str(number)) == int(text)


@pytest.mark.parametrize(
    "fields",
    [{"opened": 16**9}, {"at": -1}, {"place": MAX_PLACE + 1}, {"shard": 2**31}, {"byte": 256}],
)
def test_fields_too_large_for_their_digits_are_refused(fields: dict[str, int]) -> None:
    number = SequenceNumber(**{"opened": 1, "shard": 1, "place": 1, "at": 1} | fields)
    with pytest.raises(ValueError, match="no sequence number holds"):
        str(number)
