import pytest

from infra.proxy.corrections.names import ALL, CBOR_TYPES, LIST_SHARDS_FILTER, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", set(ALL)),
        ("", set()),
        ("cbor-types", {CBOR_TYPES}),
        ("cbor-types, list-shards-filter", {CBOR_TYPES, LIST_SHARDS_FILTER}),
        ("all,-cbor-types", set(ALL) - {CBOR_TYPES}),
        ("all,-cbor-types,cbor-types", set(ALL)),
        ("-cbor-types", set()),
        ("cbor-types,-all", set()),
    ],
)
def test_a_list_switches_on_and_off_from_left_to_right(text: str, expected: set[str]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["everything", "all,-everything", "CBOR-TYPES", "--all"])
def test_an_unknown_name_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="no correction is called") as refused:
        parse(text)
    assert all(name in str(refused.value) for name in ALL)


def test_each_correction_says_what_aws_does() -> None:
    for name, sentence in ALL.items():
        assert name == name.lower()
        assert "AWS" in sentence
