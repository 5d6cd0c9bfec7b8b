import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.decode import describe, main, run
from records.aggregation import AggregateBuilder
from records.envelope import seal
from records.errors import AggregateError
from records.limits import MAX_LARGE_RECORD_BYTES, MIB
from tests.unit.aggregates import TWO_KEYS, record, sealed

ROOT = Path(__file__).resolve().parents[2]
ID = "01a20f5c-f766-7c8a-8ea7-c818562c3349"


def packed(*records: tuple[str, bytes, int | None]) -> bytes:
    builder = AggregateBuilder(max_bytes=MIB)
    for each in records:
        assert builder.try_add(*each)
    return builder.build()


def test_an_aggregate_of_everything():
    nested = packed(("inner", b"deep", None))
    blob = packed(
        ("thing-1", seal(b'{"speed": 3}', ID), None),
        ("thing-2", seal(b"\x00\xff", ID), 7),
        ("wrapped", nested, None),
    )
    sealed_json = seal(b'{"speed": 3}', ID).decode()
    assert list(describe(blob)) == [
        f"aggregate: 3 user records in {len(blob)} bytes",
        '  [0] partition key "thing-1"',
        f"      JSON object with record ID {ID}, {len(sealed_json)} bytes",
        f"        {sealed_json}",
        '  [1] partition key "thing-2", explicit hash key 7',
        f"      frame with record ID {ID}",
        "        binary, 2 bytes",
        "          0000  00 ff" + " " * 44 + "..",
        '  [2] partition key "wrapped"',
        f"      aggregate: 1 user record in {len(nested)} bytes",
        '        [0] partition key "inner"',
        "            text, 4 bytes",
        "              deep",
    ]


@pytest.mark.parametrize(
    ("data", "headline"),
    [
        (b"", "text, 0 bytes"),
        (b"hello", "text, 5 bytes"),
        (b'{"a": 1}', "JSON object without a record ID, 8 bytes"),
        (b"[1]", "text, 3 bytes"),
        (b"\x00", "binary, 1 bytes"),
    ],
)
def test_plain_records(data: bytes, headline: str):
    assert next(describe(data)) == headline


def test_what_only_looks_like_an_aggregate_is_said_to():
    first, second, *_ = describe(packed(("k", b"v", None))[:-1] + b"\0")
    assert "checksum" in first
    assert second.startswith("binary")


def test_a_damaged_aggregate_shows_what_can_be_read(capsys: pytest.CaptureFixture[str]):
    blob = sealed(TWO_KEYS + record((1, 0), (3, b"good")) + record((1, 9), (3, b"bad")))
    with pytest.raises(AggregateError):
        list(describe(blob))
    assert run(io.BytesIO(blob)) == 1
    out, err = capsys.readouterr()
    assert "good" in out
    assert err.count("\n") == 1
    assert "record 1 of 2" in err


def test_an_escape_sequence_cannot_reach_the_terminal():
    for data in (b"\x1b[2Jgone", packed(("\x1b[2J", b"\xc2\x9b", None))):
        assert all(line.isprintable() for line in describe(data))


def test_long_content_is_cut():
    *_, last = describe(b"x" * 5_000)
    assert last.strip() == "... and 1,000 more characters"
    *_, last = describe(b"\0" * 300)
    assert last.strip() == "... and 44 more bytes"


def test_frames_without_a_bottom():
    data = b"\x00"
    for _ in range(50):
        data = seal(data, ID)
    *_, last = describe(data)
    assert "not looked into any deeper" in last


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_any_bytes_can_be_described(data: bytes):
    assert all(line.isprintable() or "\t" in line for line in describe(data))


def test_a_file_and_base64(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plain, text = tmp_path / "plain", tmp_path / "text"
    plain.write_bytes(b'{"a": 1}')
    text.write_bytes(base64.encodebytes(json.dumps({"a": "x" * 100}).encode()))
    assert main(str(plain)) == 0
    assert capsys.readouterr().out == 'JSON object without a record ID, 8 bytes\n  {"a": 1}\n'
    assert main(str(text), base64=True) == 0
    assert capsys.readouterr().out.startswith("JSON object without a record ID, 109 bytes\n")
    assert main(str(plain), base64=True) == 2
    assert "not base64" in capsys.readouterr().err


def test_bad_input_gets_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(str(tmp_path / "none")) == 2
    assert main(str(tmp_path)) == 2
    assert run(io.BytesIO(bytes(MAX_LARGE_RECORD_BYTES + 1))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[-1] for line in err.splitlines()] == [
        "No such file or directory",
        "Is a directory",
        "no Kinesis record",
    ]


@pytest.mark.parametrize(
    ("setting", "shown"), [("ascii", b"text, 6 bytes\n  h\\xe9llo\n"), ("utf-8", None)]
)
def test_an_output_that_cannot_show_a_character_gets_it_escaped(
    setting: str, shown: bytes | None
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from kit.decode import main; sys.exit(main())"],
        input="héllo".encode(),
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": setting},
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (shown or "text, 6 bytes\n  héllo\n".encode())


def test_without_standard_input_there_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # What Python makes of a descriptor that is closed.
    assert main() == 2
    assert capsys.readouterr().err == "standard input is closed\n"
