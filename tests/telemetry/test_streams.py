"""Streams: each record reaches its receiver in order, once by its id, whatever fails on the way."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.db import connection
from django.test import override_settings
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service

from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry.models import DeadLetter, Stream
from telemetry.streams import send
from telemetry.streams.records import MAX_JSON_CHARS
from telemetry.streams.send import due_streams, send_stream, try_stream
from tests.telemetry import receivers
from tests.telemetry.receivers import Http, Post, Say
from tests.telemetry.stream_rows import again, alert, change, stream_to

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
CANARY = "AKIAQ3EGRZ7LPVB2XKTM"
"""A key as a vendor writes it, whose rule the redaction has."""


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FLEET_HOOK_SIEM", SECRET)
    with override_settings(FLEET_OTLP_HOSTS=["127.0.0.0/8"], FLEET_OTLP_PLAIN_HTTP=True):
        yield


@pytest.fixture
def http() -> Iterator[Http]:
    with receivers.http() as made:
        yield made


def bodies(http: Http) -> list[dict[str, Any]]:
    return [json.loads(post.body) for post in http.posts]


def ids(http: Http) -> list[str]:
    return [post.headers["webhook-id"] for post in http.posts]


# ------------------------------------------------------------------------------------ webhooks


def test_a_webhook_is_signed_as_the_standard_says(http: Http) -> None:
    change()
    assert send_stream(stream_to(http.url + "/hook").pk).sent == 1
    (post,) = http.posts
    uid, at = post.headers["webhook-id"], post.headers["webhook-timestamp"]
    signed = f"{uid}.{at}.".encode() + post.body
    want = base64.b64encode(hmac.digest(b"k" * 32, signed, hashlib.sha256)).decode()
    assert post.headers["webhook-signature"] == f"v1,{want}"
    assert post.path == "/hook"
    assert "." not in uid
    assert abs(int(at) - now().timestamp()) < 60


def test_a_webhook_s_body_says_who_did_what_and_slack_can_read_it(http: Http) -> None:
    row = change()
    send_stream(stream_to(http.url).pk)
    (body,) = bodies(http)
    assert (body["type"], body["timestamp"]) == ("hermes.audit.change", row.at.isoformat())
    assert body["text"] == "ann: rename Group (why)"
    data = body["data"]
    assert (data["actor"], data["before"], data["after"]) == ("ann", {"n": 0}, {"n": 1})
    assert data["sha256"] == row.sha256


def test_a_name_calls_no_slack_channel_and_breaks_no_line(http: Http) -> None:
    change(actor="<!channel>\nx&y")
    send_stream(stream_to(http.url).pk)
    assert bodies(http)[0]["text"].startswith("&lt;!channel&gt; x&amp;y: rename")


def test_without_a_secret_nothing_is_signed(http: Http) -> None:
    change()
    send_stream(stream_to(http.url, secret_env="").pk)
    assert "webhook-signature" not in http.posts[0].headers


@pytest.mark.parametrize(
    ("value", "said"), [("", "is not set"), ("short", "shorter"), ("whsec_!", "no base64")]
)
def test_a_secret_that_is_none_sends_nothing_and_says_why(
    http: Http, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv("FLEET_HOOK_SIEM", value)
    change()
    stream = stream_to(http.url)
    assert said in send_stream(stream.pk).error
    stream.refresh_from_db()
    assert said in stream.last_error
    assert (http.posts, stream.audit_position) == ([], 0)


def test_the_secret_part_of_an_address_is_filled_in_and_never_told(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_HOOK_SLACK", "T0/B0/verysecretpart")
    # Once whole, once so that the longest text that is kept ends within it.
    http.answer = lambda post: Say(404, f"no {post.path} {'x' * 140} {post.path}".encode())
    change()
    stream = stream_to(http.url + "/services/${FLEET_HOOK_SLACK}", secret_env="")
    send_stream(stream.pk)
    assert http.posts[0].path == "/services/T0/B0/verysecretpart"
    stream.refresh_from_db()
    assert "404" in stream.last_error
    assert "verysecre" not in stream.last_error


# ------------------------------------------------------------------------------------ delivery


def test_records_come_in_order_and_once(http: Http) -> None:
    rows = [change(number) for number in range(5)]
    stream = stream_to(http.url)
    assert send_stream(stream.pk).sent == 5
    assert send_stream(stream.pk).sent == 0
    assert [body["data"]["number"] for body in bodies(http)] == [row.pk for row in rows]
    stream.refresh_from_db()
    assert (stream.sent_count, stream.audit_position) == (5, rows[-1].pk)
    assert stream.lease_owner == ""


def test_only_what_was_chosen_is_sent_and_alerts_come_first(http: Http) -> None:
    change()
    alert()
    send_stream(stream_to(http.url).pk)
    assert [body["type"] for body in bodies(http)] == ["hermes.alert", "hermes.audit.change"]
    http.posts.clear()
    Stream.objects.update(audit_position=0, alert_position=0, sends_audit=False)
    send_stream(Stream.objects.get().pk)
    assert [body["type"] for body in bodies(http)] == ["hermes.alert"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_receiver_that_cannot_now_gets_the_same_ids_later(http: Http, status: int) -> None:
    change()
    change()
    http.answer = lambda _post: Say(status if len(http.posts) == 1 else 200)
    stream = stream_to(http.url)
    done = send_stream(stream.pk)
    assert (done.sent, str(status) in done.error) == (1, True)
    stream.refresh_from_db()
    assert (stream.failure_count, stream.retry_count) == (1, 1)
    assert stream.open_until is not None
    assert send_stream(again(stream).pk).sent == 1
    sent = ids(http)
    assert (len(sent), len(set(sent)), sent[1]) == (3, 2, sent[2])
    assert again(stream).failure_count == 0


def test_retry_after_is_obeyed(http: Http) -> None:
    change()
    http.answer = lambda _post: Say(429, headers=(("Retry-After", "120"),))
    stream = stream_to(http.url)
    began = now()
    send_stream(stream.pk)
    stream.refresh_from_db()
    assert stream.open_until is not None
    assert timedelta(seconds=115) < stream.open_until - began < timedelta(seconds=130)
    assert send_stream(stream.pk).sent == 0
    assert len(http.posts) == 1
    assert due_streams(now()) == []
    assert due_streams(now() + timedelta(seconds=130)) == [stream.pk]


def test_a_refused_record_is_set_aside_and_the_stream_goes_on(http: Http) -> None:
    for number in (1, 2, 3):
        change(number)
    http.answer = lambda post: Say(422, b"no 2") if b'"after":{"n":2}' in post.body else Say()
    stream = stream_to(http.url)
    assert (send_stream(stream.pk).sent, DeadLetter.objects.count()) == (2, 1)
    letter = DeadLetter.objects.get()
    assert (letter.stream_id, letter.signal, letter.status) == (stream.pk, "audit", 422)
    assert letter.error == "The receiver answered 422: no 2"
    assert json.loads(bytes(letter.body))["data"]["after"] == {"n": 2}
    stream.refresh_from_db()
    assert (stream.sent_count, stream.dead_count, stream.failure_count) == (2, 1, 0)


def test_a_dead_letter_is_sent_again_with_its_bytes_and_its_id(http: Http) -> None:
    change()
    http.answer = lambda _post: Say(400)
    stream = stream_to(http.url)
    send_stream(stream.pk)
    assert due_streams(now()) == []
    DeadLetter.objects.update(replay_asked_at=now())
    assert due_streams(now()) == [stream.pk]
    send_stream(stream.pk)
    assert DeadLetter.objects.get().replay_asked_at is None
    assert DeadLetter.objects.get().attempt_count == 1
    http.answer = lambda _post: Say()
    DeadLetter.objects.update(replay_asked_at=now())
    assert send_stream(stream.pk).sent == 1
    assert send_stream(stream.pk).sent == 0
    assert len(set(ids(http))) == 1
    assert len({post.body for post in http.posts}) == 1
    stream.refresh_from_db()
    assert (stream.sent_count, stream.dead_count) == (1, 0)


def test_a_redirect_is_not_followed(http: Http) -> None:
    change()
    http.answer = lambda _post: Say(302, headers=(("Location", http.url + "/elsewhere"),))
    send_stream(stream_to(http.url).pk)
    assert "Enter its final address" in Stream.objects.get().last_error
    assert (len(http.posts), DeadLetter.objects.count()) == (1, 0)


def test_an_answer_that_is_lost_brings_the_same_id_again(http: Http) -> None:
    change()
    http.answer = lambda _post: Say(cut=not http.posts)
    stream = stream_to(http.url)
    assert send_stream(stream.pk).error
    assert send_stream(again(stream).pk).sent == 1
    assert len(set(ids(http))) == 1


def test_a_receiver_that_is_gone_is_said_and_nothing_is_lost() -> None:
    with receivers.http() as gone:
        port = gone.port
    change()
    stream = stream_to(f"http://127.0.0.1:{port}")
    assert "Nothing listens" in send_stream(stream.pk).error
    with receivers.http(port) as back:
        assert send_stream(again(stream).pk).sent == 1
        assert len(back.posts) == 1


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254/", "http://10.0.0.1/"])
@pytest.mark.parametrize("kind", ["webhook", "otlp"])
def test_addresses_inside_are_not_spoken_to(endpoint: str, kind: str) -> None:
    change()
    assert "FLEET_OTLP_HOSTS" in send_stream(stream_to(endpoint, kind).pk).error


def test_syslog_hosts_follow_the_same_rules() -> None:
    change()
    stream = stream_to("tcp://10.0.0.1:514", "syslog")
    assert "FLEET_OTLP_HOSTS" in send_stream(stream.pk).error
    with override_settings(FLEET_OTLP_PLAIN_HTTP=False):
        assert "tcp would show" in send_stream(again(stream).pk).error


def test_who_dies_after_sending_sends_the_same_again_and_nothing_else(http: Http) -> None:
    change(1)
    change(2)
    stream = stream_to(http.url)
    with (
        mock.patch.object(send, "_write_answer", side_effect=MemoryError),
        pytest.raises(MemoryError),
    ):
        send_stream(stream.pk)
    assert send_stream(stream.pk).sent == 2
    sent = ids(http)
    assert (len(sent), len(set(sent)), sent[0]) == (3, 2, sent[1])


def test_a_worker_that_slept_past_its_lease_writes_nothing(http: Http) -> None:
    change()
    stream = stream_to(http.url)

    real = send._write_answer

    def write_late(*given: Any) -> None:  # noqa: ANN401 -- passed on
        Stream.objects.filter(pk=stream.pk).update(lease_owner="another")
        real(*given)

    http.answer = lambda _post: Say(422)
    with mock.patch.object(send, "_write_answer", write_late):
        assert send_stream(stream.pk).is_busy
    stream.refresh_from_db()
    assert (stream.audit_position, stream.dead_count, stream.lease_owner) == (0, 0, "another")
    assert not DeadLetter.objects.exists()


def test_a_paused_stream_sends_nothing_and_goes_on_where_it_was(http: Http) -> None:
    change()
    stream = stream_to(http.url, is_enabled=False)
    assert due_streams(now()) == []
    assert send_stream(stream.pk).sent == 0
    Stream.objects.update(is_enabled=True)
    assert send_stream(stream.pk).sent == 1


def test_no_secret_of_an_audit_row_leaves(http: Http) -> None:
    change(
        actor=f"ann {CANARY}",
        reason=f"key {CANARY}",
        pre={"note": CANARY, "password": "hunter2-hunter2"},
        post={"deep": [{"text": f"x {CANARY}"}]},
    )
    alert(text=f"failed with {CANARY}")
    send_stream(stream_to(http.url).pk)
    with receivers.syslog() as server:
        send_stream(stream_to(f"tcp://127.0.0.1:{server.port}", "syslog", name="s").pk)
        said = repr(server.messages)
    send_stream(stream_to(http.url, "otlp", name="o").pk)
    said += "".join(
        str(post.logs()) if post.path == "/v1/logs" else post.body.decode() for post in http.posts
    )
    assert said.count("REDACTED") >= 12
    assert CANARY not in said
    assert "hunter2" not in said


def test_a_change_that_is_too_long_says_so_instead(http: Http) -> None:
    change(post={"text": "x " * MAX_JSON_CHARS})
    send_stream(stream_to(http.url).pk)
    assert bodies(http)[0]["data"]["after"]["left_out_chars"] > MAX_JSON_CHARS


def test_an_id_is_never_that_of_another_row_of_the_same_number() -> None:
    first = alert()
    from telemetry.streams.records import alert_record

    one = alert_record(first).uid
    first.text, first.at = "Another", first.at + timedelta(seconds=1)
    assert alert_record(first).uid != one
    assert alert_record(first).uid.startswith(f"alert-{first.pk}-")


# ---------------------------------------------------------------------------------------- OTLP


def test_otlp_logs_carry_event_name_severity_time_and_attributes(http: Http) -> None:
    row = change()
    alert()
    assert send_stream(stream_to(http.url, "otlp").pk).sent == 2
    records = [
        record
        for post in http.posts
        for logs in post.logs().resource_logs
        for record in logs.scope_logs[0].log_records
    ]
    found = {record.event_name: record for record in records}
    one = found["hermes.audit.change"]
    held = {each.key: each.value for each in one.attributes}
    assert held["hermes.audit.actor"].string_value == "ann"
    assert held["hermes.audit.number"].int_value == row.pk
    assert held["hermes.audit.after"].string_value == '{"n":1}'
    assert held["log.record.uid"].string_value.startswith(f"audit-{row.pk}-")
    assert one.time_unix_nano == round(row.at.timestamp() * 1_000_000) * 1000
    assert one.body.string_value == "ann: rename Group (why)"
    assert found["hermes.alert"].severity_number == 17
    assert {post.path for post in http.posts} == {"/v1/logs"}


def test_what_a_collector_takes_in_part_is_counted_and_said(http: Http) -> None:
    for number in range(4):
        change(number)
    answer = service.ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = 1
    answer.partial_success.error_message = "too old"
    said = answer.SerializeToString()
    media = (("Content-Type", "application/x-protobuf"),)
    http.answer = lambda _post: Say(200, said, media)
    stream = stream_to(http.url, "otlp")
    send_stream(stream.pk)
    stream.refresh_from_db()
    assert (stream.sent_count, stream.rejected_count, stream.last_error) == (3, 1, "too old")
    assert len(http.posts) == 1


def test_one_record_that_a_collector_refuses_is_found_among_many(http: Http) -> None:
    for number in range(9):
        change(number)

    def answer(post: Post) -> Say:
        return Say(400 if '{"n":6}' in str(post.logs()).replace("\\", "") else 200)

    http.answer = answer
    stream = stream_to(http.url, "otlp")
    assert send_stream(stream.pk).sent == 8
    letter = DeadLetter.objects.get()
    assert letter.record_count == 1
    stream.refresh_from_db()
    assert (stream.sent_count, stream.dead_count) == (8, 1)


@pytest.mark.parametrize("kind", ["webhook", "otlp"])
@pytest.mark.parametrize("status", [401, 404, 410])
def test_a_wrong_login_or_path_sets_nothing_aside_and_is_said(
    http: Http, kind: str, status: int
) -> None:
    for number in range(3):
        change(number)
    http.answer = lambda _post: Say(status)
    stream = stream_to(http.url, kind)
    assert str(status) in send_stream(stream.pk).error
    assert (len(http.posts), DeadLetter.objects.count()) == (1, 0)
    http.answer = lambda _post: Say()
    send_stream(again(stream).pk)
    assert send_stream(again(stream).pk).sent + again(stream).sent_count >= 3


# ---------------------------------------------------------------------------------- test button


@pytest.mark.parametrize("kind", ["webhook", "otlp"])
def test_a_test_sends_one_record_and_moves_nothing(http: Http, kind: str) -> None:
    change()
    stream = stream_to(http.url, kind)
    assert try_stream(stream, actor="ann") == ""
    stream.refresh_from_db()
    assert (stream.audit_position, stream.sent_count, stream.test_error) == (0, 0, "")
    assert stream.tested_at is not None
    assert ChangeRecord.objects.filter(action="stream.test", actor="ann").exists()
    assert len(http.posts) == 1


def test_a_test_that_fails_says_what_to_do(http: Http) -> None:
    http.answer = lambda _post: Say(403, b"who are you?")
    assert "403: who are you?" in try_stream(stream_to(http.url), actor="ann")
    assert "403" in Stream.objects.get().test_error
    Stream.objects.update(endpoint="http://10.0.0.1")
    assert "FLEET_OTLP_HOSTS" in try_stream(Stream.objects.get(), actor="ann")


# ----------------------------------------------------------------------------------- in parallel


def in_threads(count: int, work: Callable[[], object]) -> None:
    gate = threading.Barrier(count)

    def run() -> None:
        gate.wait(10)
        try:
            work()
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.mark.django_db(transaction=True)
def test_many_workers_at_once_double_nothing(http: Http) -> None:
    for number in range(20):
        change(number)
    stream = stream_to(http.url)
    in_threads(4, lambda: send_stream(stream.pk))
    send_stream(stream.pk)
    sent = ids(http)
    assert len(sent) == len(set(sent)) == 20


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_changes_that_commit_in_any_order_are_all_sent_in_order(http: Http) -> None:
    stream = stream_to(http.url)
    change()
    done = threading.Event()

    def write() -> None:
        for number in range(15):
            change(number)

    def follow() -> None:
        while not done.is_set():
            send_stream(stream.pk)
        connection.close()

    follower = threading.Thread(target=follow)
    follower.start()
    in_threads(4, write)
    done.set()
    follower.join(60)
    send_stream(stream.pk)
    numbers = [body["data"]["number"] for body in bodies(http)]
    assert numbers == list(ChangeRecord.objects.order_by("pk").values_list("pk", flat=True))
    assert len(numbers) == 61
