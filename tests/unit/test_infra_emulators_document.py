import re
from dataclasses import replace

import pytest

from infra.emulators.__main__ import _differs
from infra.emulators.document import CheckRow, Results, Word, failing, render
from infra.emulators.engines import _Inside

ROWS = [
    CheckRow("put-501", "limits", "501 records | in one call are refused."),
    CheckRow("put-500", "limits", "500 records are taken."),
    CheckRow("condition", "dynamodb", "A condition is kept."),
    CheckRow("strange", "nobody", "Nobody is asked about this."),
]
ONE = Results(
    engine="one",
    version="npm one 1.2",
    dynamodb="",
    bare={"put-501": Word.NO, "put-500": Word.YES},
    proxied={"put-501": Word.YES, "put-500": Word.YES},
)
TWO = Results(
    engine="two",
    version="PyPI two 3",
    dynamodb="two 3",
    bare={"put-501": Word.UNSUPPORTED, "put-500": Word.YES, "condition": Word.NO},
    proxied={"put-501": Word.NO, "put-500": Word.NO, "condition": Word.NO},
)


@pytest.fixture
def document() -> str:
    return render(ROWS, [ONE, TWO], absent=["three"], date="2026-01-02")


def row(document: str, name: str) -> list[str]:
    (line,) = [each for each in document.splitlines() if each.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_row_says_what_each_engine_does_and_what_the_proxy_changes(document: str) -> None:
    assert row(document, "put-501")[2:] == ["no → yes", "unknown → no"]
    assert row(document, "put-500")[2:] == ["yes", "yes → no"]


def test_a_bar_in_a_sentence_does_not_make_a_column(document: str) -> None:
    assert row(document, "put-501")[1] == r"501 records \| in one call are refused."


def test_an_engine_without_a_service_has_no_column_in_its_tables(document: str) -> None:
    assert row(document, "condition")[2:] == ["no"]
    assert "| check | what AWS does | two |" in document
    assert "| check | what AWS does | one | two |" in document


def test_an_area_nobody_was_asked_about_is_left_out(document: str) -> None:
    assert "strange" not in document
    assert "## nobody" not in document


def test_the_summary_counts_bare_and_proxied(document: str) -> None:
    assert "| one | npm one 1.2 | none | 1 / 1 / 0 | 2 / 0 / 0 |" in document
    assert "| two | PyPI two 3 | two 3 | 1 / 1 / 1 | 0 / 3 / 0 |" in document


def test_it_lists_what_still_fails_and_how_it_was_made(document: str) -> None:
    assert "- one (0): nothing" in document
    assert "- two (3): `put-501`, `put-500`, `condition`" in document
    assert "On 2026-01-02" in document
    assert "left out: three." in document


def test_what_fails_is_read_back_as_it_was_written(document: str) -> None:
    for results in (ONE, TWO):
        for proxied, verdicts in ((False, results.bare), (True, results.proxied)):
            written = {name for name, word in verdicts.items() if word == Word.NO}
            assert failing(document, results.engine, proxied=proxied) == written


def test_an_engine_that_is_not_there_cannot_be_read_back(document: str) -> None:
    with pytest.raises(ValueError, match="nothing on three"):
        failing(document, "three", proxied=False)


def test_the_comparison_names_what_has_changed(
    document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not _differs(document, [ONE, TWO])
    assert capsys.readouterr().out == ""
    mended = replace(ONE, bare={**ONE.bare, "put-501": Word.YES})
    broken = replace(TWO, proxied={**TWO.proxied, "put-501": Word.UNSUPPORTED, "new": Word.NO})
    assert _differs(document, [mended, broken])
    assert capsys.readouterr().out.splitlines() == [
        "one, bare: put-501 does not fail any more",
        "two, behind the proxy: new fails",
        "two, behind the proxy: put-501 does not fail any more",
    ]


def test_an_engine_that_the_page_does_not_know_is_a_difference(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = render(ROWS, [ONE], absent=[], date="2026-11-25")
    assert _differs(document, [ONE, TWO])
    assert capsys.readouterr().out == "the document has nothing on two\n"


class Container:
    """A container with these processes, whose Pythons all have version 1.5 of everything."""

    def __init__(self, *processes: str) -> None:
        self.listing = "\n".join(processes)

    def exec_run(self, argv: list[str]) -> tuple[int, bytes]:
        if argv[0] == "sh":
            return 0, self.listing.encode()
        return (0, b"1.5\n") if argv[0].endswith("python") else (127, b"no such program")


RUNTIME = "/opt/localstack/.venv/bin/python -m localstack.runtime.main"
MOCK = "node /usr/lib/localstack/kinesis-local/0.5.2/node_modules/kinesis-local/main.js"


def test_localstack_is_asked_for_the_kinesis_mock_inside() -> None:
    assert _Inside(Container(RUNTIME, MOCK)).kinesis() == "kinesis-mock 0.5.2"
    assert _Inside(Container(RUNTIME)).kinesis() == "kinesis-mock (version unknown)"


@pytest.mark.parametrize(
    ("process", "said"),
    [
        ("java -Xmx256m -jar DynamoDBLocal.jar -port 4510", "DynamoDB Local"),
        ("/opt/ministack/bin/python /opt/ministack/bin/ministack", "MiniStack 1.5"),
        ("/opt/ministack/bin/ministack", "MiniStack (version unknown)"),
        ("/bin/something-else", "an engine that cannot be told from its processes"),
    ],
)
def test_localstack_is_asked_what_serves_dynamodb(process: str, said: str) -> None:
    assert _Inside(Container(RUNTIME, process, MOCK)).dynamodb() == said
