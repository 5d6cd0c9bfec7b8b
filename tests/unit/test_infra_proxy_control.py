"""The control endpoint, asked directly, and by its own client over a socket."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from multidict import CIMultiDict

from infra.proxy import control
from infra.proxy.control_endpoint import answer_control
from infra.proxy.exchange import Answer, Incoming
from infra.proxy.fault import Action, Fault, Subject
from infra.proxy.faults import FaultPlan

PUT = Subject("PutRecords", "orders")
LOSE = b'{"action": "lose", "operation": "PutRecords", "count": 2}'


class Asked:
    """A plan, and what its control endpoint says."""

    def __init__(self) -> None:
        self.plan = FaultPlan(clock=lambda: 1.0)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        peer: str = "127.0.0.1",
        **headers: str,
    ) -> Answer:
        incoming = Incoming(method, target, CIMultiDict(headers), body, peer)
        return answer_control(
            incoming, plan=self.plan, status=lambda: {"requests": 9, "faults": self.plan.status()}
        )

    def strike(self) -> list[str]:
        strikes = self.plan.arrived(PUT)
        for strike in strikes:
            self.plan.settle(strike, happened=True)
        return [strike.fault for strike in strikes]


@pytest.fixture
def asked() -> Asked:
    return Asked()


def error(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]


def test_the_status_is_what_it_was_given(asked: Asked):
    answer = asked.ask("GET", "/_proxy/status")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.body) == {"requests": 9, "faults": asked.plan.status()}


def test_a_fault_is_added_and_the_status_is_that_after_it(asked: Asked):
    answer = asked.ask("POST", "/_proxy/faults", LOSE)
    assert answer.status == 200
    assert json.loads(answer.body)["faults"]["pending"] == 2
    assert [asked.strike() for _ in range(3)] == [["lose-PutRecords"], ["lose-PutRecords"], []]


def test_faults_are_added_all_or_none(asked: Asked):
    body = b'{"faults": [%s, {"action": "delay"}]}'
    status, message = error(asked.ask("POST", "/_proxy/faults", body % LOSE))
    assert (status, message) == (400, "seconds: delay needs a number of seconds")
    assert not asked.plan.active
    body = b'{"faults": [%s, {"action": "delay", "seconds": 1}]}'
    assert asked.ask("POST", "/_proxy/faults", body % LOSE).status == 200
    assert asked.strike() == ["lose-PutRecords", "delay"]


def test_faults_are_forgotten_one_or_all(asked: Asked):
    for name in ("a b&c", "d", "e"):
        asked.plan.add(Fault(action=Action.LOSE, name=name))
    answer = asked.ask("DELETE", "/_proxy/faults?name=a+b%26c")
    assert list(json.loads(answer.body)["faults"]["by_name"]) == ["d", "e"]
    assert error(asked.ask("DELETE", "/_proxy/faults?name=x")) == (404, "there is no fault 'x'")
    for query in ("nam=d", "name=d&name=e", "name=d&x=1", "d"):
        assert asked.ask("DELETE", f"/_proxy/faults?{query}").status == 400
    assert list(asked.plan.status()["by_name"]) == ["d", "e"]
    assert asked.ask("DELETE", "/_proxy/faults").status == 200
    assert asked.ask("DELETE", "/_proxy/faults").status == 200, "none is no trouble"
    assert not asked.plan.active


def test_a_freeze_is_thawed(asked: Asked):
    asked.plan.add(Fault(action=Action.FREEZE))
    asked.plan.arrived(PUT)
    assert asked.plan.frozen_seconds(PUT)
    assert asked.ask("POST", "/_proxy/thaw").status == 200
    assert not asked.plan.frozen_seconds(PUT)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"3",
        b"\xff",
        b"[" * 100_000,
        b'{"faults": {}}',
        b'{"faults": [1]}',
        b'{"faults": [], "action": "lose"}',
        b'{"action": "lose", "probability": NaN}',
        b'{"action": "lose", "count": "2"}',
        b'{"action": "lose", "name": "\\ud800"}',
        b'{"action": "delay", "seconds": 1' + b"0" * 400 + b"}",
    ],
)
def test_nonsense_is_told_what_is_wrong(asked: Asked, body: bytes):
    status, message = error(asked.ask("POST", "/_proxy/faults", body))
    assert status == 400
    assert message
    assert "\n" not in message
    assert not asked.plan.active


def test_other_paths_are_told_what_there_is_and_other_methods_what_is_taken(asked: Asked):
    for path in ("/_proxy/", "/_proxy/statu", "/_proxy/faults/x"):
        status, message = error(asked.ask("GET", path))
        assert status == 404
        assert "GET /_proxy/status, POST /_proxy/faults, DELETE /_proxy/faults" in message
    for method, name, allowed in [
        ("POST", "status", "GET"),
        ("GET", "faults", "POST, DELETE"),
        ("DELETE", "thaw", "POST"),
    ]:
        answer = asked.ask(method, f"/_proxy/{name}", LOSE)
        assert answer.status == 405
        assert answer.headers["Allow"] == allowed
    assert not asked.plan.active


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_served(asked: Asked, peer: str):
    assert asked.ask("POST", "/_proxy/faults", LOSE, peer=peer).status == 200


@pytest.mark.parametrize("peer", ["", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "2001:db8::1"])
def test_another_machine_is_not(asked: Asked, peer: str):
    assert error(asked.ask("GET", "/_proxy/status", peer=peer))[0] == 403
    assert asked.ask("POST", "/_proxy/faults", LOSE, peer=peer).status == 403
    assert not asked.plan.active


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://somewhere.example"},
        {"origin": "null"},
        {"Origin": "http://127.0.0.1:4567"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_page_in_a_browser_is_not_served(asked: Asked, headers: dict[str, str]):
    for method, target in [("GET", "status"), ("POST", "faults"), ("DELETE", "faults")]:
        answer = asked.ask(method, f"/_proxy/{target}", LOSE, **headers)
        assert error(answer) == (403, "the control endpoint is not for web pages")
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert not asked.plan.active


def test_a_person_who_types_the_address_is_served(asked: Asked):
    assert asked.ask("GET", "/_proxy/status", **{"Sec-Fetch-Site": "none"}).status == 200


@pytest.fixture
def served(asked: Asked) -> Iterator[str]:
    """The endpoint behind a real socket."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = asked.ask(
                self.command, self.path, body, self.client_address[0], **dict(self.headers)
            )
            self.send_response(answer.status)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_client_loses_answers_and_counts_them(asked: Asked, served: str):
    control.lose(served, "PutRecords")
    status = control.lose(served, "PutRecords", 2)
    assert status["faults"]["pending"] == 3
    assert control.lost_answers(status) == 0
    asked.strike()
    asked.strike()
    status = control.status(served)
    assert control.lost_answers(status) == 2
    assert control.struck(status, "lose-PutRecords") == 2
    assert control.struck(status, "another") == 0


def test_the_client_adds_clears_and_thaws(asked: Asked, served: str):
    fields = {"action": "reset-before", "operation": ["PutRecords"], "count": None}
    control.add(served, name="a b&c?", **fields)
    control.add(served, action="freeze")
    assert asked.strike() == ["a b&c?"]
    assert asked.plan.frozen_seconds(PUT)
    control.thaw(served)
    assert not asked.plan.frozen_seconds(PUT)
    assert list(control.clear(served, "a b&c?")["faults"]["by_name"]) == ["freeze"]
    assert control.clear(served)["faults"]["by_name"] == {}


def test_the_client_says_why_it_was_refused(served: str):
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: control.lose(served, "PutRecords", 0), "count of at least 1"),
        (lambda: control.add(served, action="dely", seconds=1), "did you mean delay"),
        (lambda: control.clear(served, "x"), "there is no fault 'x'"),
    ]
    for refused, words in calls:
        with pytest.raises(ValueError, match=words):
            refused()
