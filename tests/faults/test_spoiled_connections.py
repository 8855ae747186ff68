"""The real client and the real console over a bad network: nothing lost, nothing doubled."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from pytest_django.live_server_helper import LiveServer

from agent_client import enroll, push
from agent_client.http import NetworkError, connect_to
from agent_client.outbox import read_outbox
from fleet.enroll import mint_token
from telemetry.models import IngestBatch
from tests.agent_client.homes import record
from tests.faults import raw
from tests.faults.books import check_books, faults_of, read_books
from tests.faults.proxy import Fault, FaultProxy
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]


@pytest.fixture
def proxy(live_server: LiveServer) -> Iterator[FaultProxy]:
    with FaultProxy(live_server.url) as proxy:
        yield proxy


@pytest.fixture
def home(tmp_path: Path, proxy: FaultProxy) -> Path:
    """Enrolled with the console of this test, through the proxy."""
    _, text = mint_token(actor="operator")
    enroll.enroll(tmp_path, proxy.url, text)
    return tmp_path


class Waits(list[float]):
    """Every wait of a push, in seconds; none is really waited."""

    def timing(self, attempts: int = 5) -> push.Timing:
        return push.Timing(sleep=self.append, chance=lambda: 0.5, max_attempts=attempts)


def push_now(home: Path, attempts: int = 5) -> push.PushResult:
    return push.push_once(home, timing=Waits().timing(attempts), force=True)


ONCE_SPOILED = {
    "the answer is lost after the commit": Fault(loses_answer=True),
    "the connection is reset at once": Fault(resets=True),
    "the request arrives twice at the same time": Fault(doubles=True),
    "the request dribbles in": Fault(bytes_per_write=40),
    "the answer comes late": Fault(latency_ms=30),
    "the first byte of the request is the last": Fault(request_cut=1),
    "the headers arrive, the body does not": Fault(request_cut=900),
    "half of the answer arrives": Fault(response_cut=200),
    **{f"a proxy answers {status}": Fault(status=status) for status in (500, 502, 503, 504, 429)},
    "a proxy answers 200 with its own page": Fault(status=200),
    "a proxy answers 200 with a foreign object": Fault(status=200, body=b'{"ok": true}'),
}


@pytest.mark.parametrize("what", ONCE_SPOILED)
def test_a_fault_once_on_the_way_loses_and_doubles_nothing(
    home: Path, proxy: FaultProxy, what: str
) -> None:
    record(home)
    proxy.spoil(ONCE_SPOILED[what])
    push_now(home)
    push_now(home)
    assert not proxy.faults
    assert read_outbox(home) is None
    check_books(home)
    assert IngestBatch.objects.count() == 1


@pytest.mark.parametrize("what", ["the answer is lost after the commit", "a proxy answers 502"])
def test_a_fault_that_stays_leaves_the_batch_waiting_and_then_goes(
    home: Path, proxy: FaultProxy, what: str
) -> None:
    record(home)
    proxy.spoil(*[ONCE_SPOILED[what]] * 5)
    assert push_now(home).status == "later"
    waiting = read_outbox(home)
    assert waiting is not None
    record(home)  # what is recorded meanwhile goes under a batch of its own
    result = push_now(home)
    assert (result.status, result.batches) == ("pushed", 2)
    assert IngestBatch.objects.filter(batch_id=waiting.batch_id).count() == 1
    check_books(home)


def test_a_wait_that_is_asked_for_is_kept(home: Path, proxy: FaultProxy) -> None:
    record(home)
    proxy.spoil(Fault(status=429, retry_after="7"), Fault(status=503, retry_after="9"))
    waits = Waits()
    assert push.push_once(home, timing=waits.timing()).status == "pushed"
    assert waits == [7.0, 9.0]
    check_books(home)


def test_a_long_wait_ends_the_push_and_the_next_keeps_to_it(home: Path, proxy: FaultProxy) -> None:
    record(home)
    proxy.spoil(Fault(status=503, retry_after="300"))
    assert push.push_once(home, timing=Waits().timing()).retry_after_s == 300
    seen = len(proxy.seen)
    assert push.push_once(home, timing=Waits().timing()).reason == "asked_to_wait"
    assert len(proxy.seen) == seen
    assert push_now(home).status == "pushed"
    check_books(home)


def test_an_answer_lost_after_the_commit_is_the_answer_of_the_repeat(
    home: Path, proxy: FaultProxy
) -> None:
    record(home)
    proxy.spoil(Fault(loses_answer=True))
    assert push_now(home).status == "pushed"
    lost, got = (answer.split(b"\r\n\r\n", 1)[1] for answer in proxy.answers[-2:])
    assert lost == got
    assert b'"tel_runs":1' in got


def positions(length: int, count: int) -> list[int]:
    """Byte positions over a message: its ends and some between; -1 is all but the last byte."""
    return sorted({-1, 0, 1, *range(2, length - 20, max(1, length // count))})


@pytest.mark.slow
def test_a_request_cut_anywhere_loses_and_doubles_nothing(home: Path, proxy: FaultProxy) -> None:
    record(home)
    push_now(home)
    whole = proxy.seen[-1]
    head_bytes = whole.index(b"\r\n\r\n") + 4
    cuts = {*positions(len(whole), 16), head_bytes - 1, head_bytes, head_bytes + 1}
    for cut in sorted(cuts):
        record(home)
        proxy.spoil(Fault(request_cut=cut))
        assert push_now(home).status == "pushed", cut
    check_books(home)
    assert IngestBatch.objects.count() == len(cuts) + 1


@pytest.mark.slow
def test_an_answer_cut_anywhere_loses_and_doubles_nothing(home: Path, proxy: FaultProxy) -> None:
    record(home)
    push_now(home)
    cuts = positions(len(proxy.answers[-1]), 16)
    for cut in cuts:
        record(home)
        proxy.spoil(Fault(response_cut=cut))
        assert push_now(home).status == "pushed", cut
    check_books(home)
    assert IngestBatch.objects.count() == len(cuts) + 1


def test_a_batch_resent_by_hand_gets_the_receipt_of_its_lost_answer(proxy: FaultProxy) -> None:
    token, batch_id = raw.credential_of(), uuid4()
    body = make.ndjson(make.run(), make.tool_call(2), b"{")
    proxy.spoil(Fault(loses_answer=True))
    with pytest.raises(ConnectionError):
        raw.push(proxy.url, token, body, batch_id)
    answers = [raw.push(proxy.url, token, body, batch_id) for _ in range(2)]
    lost = proxy.answers[0].split(b"\r\n\r\n", 1)[1]
    assert {lost} == {answer.body for answer in answers}
    sent: dict[str, set[object]] = {"tel_runs": {"run-1"}, "tel_tool_calls": {"span-2"}}
    assert faults_of(read_books(), sent) == []


def test_spans_sent_again_after_a_lost_answer_are_stored_once(proxy: FaultProxy) -> None:
    token, export = raw.credential_of(), raw.otlp_export()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-protobuf"}
    headers["Connection"] = "close"

    def send() -> bytes:
        answer = raw.request(proxy.url, export, headers, path="/v1/traces")
        assert answer.status == 200
        return answer.body

    proxy.spoil(Fault(loses_answer=True), Fault(response_cut=30))
    for _ in range(2):
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            send()
    assert send() == send() == proxy.answers[0].split(b"\r\n\r\n", 1)[1]
    books = read_books()
    assert (books.inserted, books.duplicate, books.rejected) == (books.row_count, 0, 0)
    assert IngestBatch.objects.count() == 1
    assert books.row_count >= 1


@pytest.mark.slow
def test_a_cut_in_every_region_of_a_hand_made_request_stores_all_or_nothing(
    proxy: FaultProxy,
) -> None:
    token, records = raw.credential_of(), [make.tool_call(seq) for seq in range(1, 4)]
    body = make.ndjson(*records)
    headers = raw.push_headers(token)
    length = len(raw.raw_request(headers, body))

    def is_cut(cut: int) -> bool:
        proxy.spoil(Fault(request_cut=cut))
        return raw.exchange(proxy.url, raw.raw_request(headers, body)) == b""

    assert all(is_cut(cut) for cut in positions(length, 24))
    assert not IngestBatch.objects.exists()
    assert raw.push(proxy.url, token, body, headers["Idempotency-Key"]).status == 200
    assert faults_of(read_books(), {"tel_tool_calls": {f"span-{n}" for n in (1, 2, 3)}}) == []


def test_many_agents_on_a_bad_line_lose_and_double_nothing(proxy: FaultProxy) -> None:
    tokens = [raw.credential_of(uuid4()) for _ in range(4)]
    batches = [
        (token, uuid4(), make.ndjson(*(make.tool_call(10 * at + n) for n in range(5))))
        for token in tokens
        for at in range(3)
    ]
    kinds = [Fault(loses_answer=True), Fault(resets=True), Fault(response_cut=50), Fault()]
    proxy.spoil(*(kinds * 5)[:18])

    def until_acknowledged(batch: tuple[str, object, bytes]) -> int:
        token, batch_id, body = batch
        for attempt in range(20):
            try:
                if raw.push(proxy.url, token, body, batch_id).status == 200:
                    return attempt
            except (OSError, http.client.HTTPException):
                continue
        raise AssertionError("never acknowledged")

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(until_acknowledged, batches)) > 0
    books = read_books()
    assert (books.inserted, books.duplicate, books.row_count) == (60, 0, 60)
    assert IngestBatch.objects.count() == 12


def test_a_reset_while_the_connection_is_made_is_an_error_of_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reset(*_: object, **__: object) -> socket.socket:
        raise ConnectionResetError

    monkeypatch.setattr(socket, "create_connection", reset)
    with pytest.raises(NetworkError):
        connect_to("http://127.0.0.1:9").request("GET", "/")
