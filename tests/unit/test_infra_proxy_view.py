"""What the proxy shows: the live table, the plain lines, the JSON lines."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from infra.proxy.view import (
    MAX_ROWS,
    JsonView,
    LiveView,
    PlainView,
    Ready,
    draw,
    new_strikes,
    summary_of,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def strike(number: int, **members: Any) -> dict[str, Any]:
    return {
        "request": number,
        "operation": "PutRecords",
        "stream": "orders",
        "shard": None,
        "action": "lose",
        "fault": "lose-1",
        "reason": f"because of {number}",
        "at": 1.5,
        **members,
    }


def shard(name: str, **members: Any) -> dict[str, Any]:
    return {
        "stream": "orders",
        "shard": name,
        "records_per_second": 12.4,
        "bytes_per_second": 2048.0,
        "reads_per_second": 1.0,
        "read_bytes_per_second": 4096.0,
        "admitted": 7,
        "throttled": 0,
        **members,
    }


def status(requests: int = 0, *strikes: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "upstream": "http://127.0.0.1:4566",
        "requests": requests,
        "operations": {"PutRecords": {"requests": requests, "refused": 2}} if requests else {},
        "lost": len(strikes),
        "corrections": {},
        "faults": {
            "by_action": {"lose": len(strikes)} if strikes else {},
            "by_name": {},
            "strikes": list(strikes),
        },
        "shards": [],
        "tables": [],
        "upstream_errors": 0,
        **members,
    }


def drawn(shown: dict[str, Any], requests_per_second: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        console.print(draw(shown, requests_per_second=requests_per_second))
    return capture.get()


def styled(shown: dict[str, Any]) -> str:
    console = Console(
        file=io.StringIO(), width=120, force_terminal=True, color_system="standard", no_color=False
    )
    with console.capture() as capture:
        console.print(draw(shown, requests_per_second=0.0))
    return capture.get()


RED = "\x1b[1;31m"


def test_the_table_holds_each_rate_against_its_quota():
    text = drawn(status(12, shards=[shard("shardId-000000000003", throttled=1234)]), 34.0)
    assert "http://127.0.0.1:4566" in text
    assert "requests 12" in text
    assert "requests/s 34" in text
    row = next(line for line in text.splitlines() if "shardId-000000000003" in line)
    assert row.strip("│ ").split() == [
        "orders", "shardId-000000000003", "12/1,000", "2/1,024", "1/5", "4/2,048", "7", "1,234",
    ]  # fmt: skip
    operation = next(line for line in text.splitlines() if "PutRecords" in line)
    assert operation.strip("│ ").split() == ["PutRecords", "12", "2"]


def test_a_dynamodb_table_shows_what_is_left_of_its_capacity():
    leases = {
        "table": "leases",
        "write_units_per_second": 5,
        "write_units_left": 1499.6,
        "read_units_per_second": 10,
        "read_units_left": -3.0,
        "throttled": 2,
    }
    text = drawn(status(1, tables=[leases]))
    row = next(line for line in text.splitlines() if "leases" in line)
    assert row.strip("│ ").split() == ["leases", "5", "1,500", "10", "-3", "2"]


def test_the_table_names_faults_corrections_and_upstream_errors():
    shown = status(1, strike(1), corrections={"list-shards-filter": 5, "cbor-types": 0})
    text = drawn({**shown, "upstream_errors": 3})
    assert "fault lose 1" in text
    assert "corrected list-shards-filter 5" in text
    assert "cbor-types" not in text
    assert "upstream errors 3" in text


@pytest.mark.parametrize(
    "members", [{"throttled": 1}, {"records_per_second": 990.0}, {"read_bytes_per_second": 2.1e6}]
)
def test_what_is_at_its_quota_is_red(members: dict[str, float]):
    assert RED not in styled(status(1, shards=[shard("a")]))
    assert RED in styled(status(1, shards=[shard("a", **members)]))


def test_the_busiest_rows_are_shown_and_the_others_counted():
    rows = [shard(f"shard-{n:02}", admitted=n) for n in range(MAX_ROWS + 3)]
    text = drawn(status(1, shards=rows))
    assert f"shard-{MAX_ROWS + 2:02}" in text
    assert "shard-02" not in text
    assert "… and 3 more" in text


def test_nothing_has_happened_yet():
    text = drawn(status())
    assert "requests 0" in text
    assert "shard" not in text


def test_a_strike_is_new_once_even_when_the_list_has_lost_older_ones():
    first = status(2, strike(1), strike(2))
    fresh, seen = new_strikes(first, 0)
    assert [each["request"] for each in fresh] == [1, 2]
    assert new_strikes(first, seen)[0] == ()
    later = status(9)
    later["faults"] = {"by_action": {"lose": 4, "error": 5}, "strikes": [strike(8), strike(9)]}
    fresh, seen = new_strikes(later, seen)
    assert ([each["request"] for each in fresh], seen) == ([8, 9], 9)
    later["faults"]["by_action"]["error"] = 6
    later["faults"]["strikes"] = [strike(9), strike(10)]
    assert [each["request"] for each in new_strikes(later, seen)[0]] == [10]


def test_plain_lines_tell_faults_at_once_and_counts_every_ten_seconds():
    clock, out, err = Clock(), io.StringIO(), io.StringIO()
    view = PlainView(out, err, clock)
    view.ready(Ready(url="http://127.0.0.1:1", tls_url="https://127.0.0.1:2", ca_file="ca.pem"))
    assert out.getvalue().splitlines() == [
        "ready http://127.0.0.1:1",
        "ready https://127.0.0.1:2 (certificate: ca.pem)",
    ]
    with view.showing():
        view.update(status(1, strike(1, shard="shard-1")))
        assert err.getvalue() == (
            "   1.500 s  lose: request 1, PutRecords on orders/shard-1: because of 1\n"
        )
        clock.now += 9.9
        view.update(status(5, strike(1)))
        assert len(err.getvalue().splitlines()) == 1
        clock.now += 0.2
        view.update(status(5, strike(1)))
        assert err.getvalue().splitlines()[1] == summary_of(status(5, strike(1)))
        clock.now += 60.0
        view.update(status(5, strike(1)))
        assert len(err.getvalue().splitlines()) == 2
    last = status(6, strike(1), strike(2))
    assert summary_of(last) == (
        "6 requests, 2 refused, 0 throttled on shards, 2 faults (2 answers lost),"
        " 0 corrections, 0 upstream errors"
    )
    view.end(last)
    assert err.getvalue().splitlines()[2:] == [
        "   1.500 s  lose: request 2, PutRecords on orders: because of 2",
        f"end: {summary_of(last)}",
    ]


def test_an_idle_proxy_prints_nothing_plain():
    clock, err = Clock(), io.StringIO()
    view = PlainView(io.StringIO(), err, clock)
    for _ in range(5):
        clock.now += 60.0
        view.update(status())
    assert err.getvalue() == ""


def test_json_lines_are_ready_changes_and_an_end():
    out = io.StringIO()
    view = JsonView(out)
    view.ready(Ready(url="http://127.0.0.1:1"))
    view.update(status(2, strike(1)))
    view.update(status(2, strike(1)))  # nothing has changed
    view.update(status(3, strike(1), strike(2)))
    view.end(status(3, strike(1), strike(2)))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line.pop("event") for line in lines] == ["ready", "status", "status", "end"]
    assert lines[0] == {"url": "http://127.0.0.1:1", "tls_url": None, "ca_file": None}
    assert [line["requests"] for line in lines[1:]] == [2, 3, 3]
    # Each strike once on the way, and all of them at the end.
    struck = [[each["request"] for each in line["faults"]["strikes"]] for line in lines[1:]]
    assert struck == [[1], [2], [1, 2]]


def test_the_live_view_measures_requests_and_leaves_the_last_table():
    clock, screen, out = Clock(), io.StringIO(), io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    view = LiveView(console, out, clock=clock)
    view.ready(Ready(url="http://127.0.0.1:1"))
    with view.showing():
        view.update(status(0))
        clock.now += 2.0
        view.update(status(300, strike(4)))
        assert view._rate == 150.0
        clock.now += 0.5
        view.update(status(400, strike(4)))
        assert view._rate == 150.0
        clock.now += 0.5
        view.update(status(400, strike(4)))
        assert view._rate == 100.0
    screen.truncate(0)
    view.end(status(400, strike(4)))
    assert out.getvalue() == "ready http://127.0.0.1:1\n"
    assert "requests 400" in screen.getvalue()
    assert "end: 400 requests" in screen.getvalue()
    assert view._strikes_seen == 1


def test_only_what_redraws_itself_looks_often():
    assert LiveView.look_every_seconds < 1.0
    assert PlainView.look_every_seconds == JsonView.look_every_seconds == 1.0
