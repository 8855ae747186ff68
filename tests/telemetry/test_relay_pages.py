"""Pages of collectors, streams, dead letters and alerts: who may what, no secret on any page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings

from fleet.lib.clock import now
from fleet.models import ChangeRecord, InstallGroup
from telemetry.models import AlertEvent, DeadLetter, FeedEntry, RelayDestination, Stream
from tests.telemetry import builders as make
from tests.telemetry import receivers
from tests.telemetry.receivers import Http, Say

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
COLLECTORS = "/telemetry/relaydestination/"
STREAMS = "/telemetry/stream/"
LETTERS = "/telemetry/deadletter/"
ALERTS = "/telemetry/alertevent/"
SECRET = "Bearer sk-live-4f9a8b7c6d5e4f3a2b1c"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with override_settings(FLEET_OTLP_HOSTS=["127.0.0.0/8"], FLEET_OTLP_PLAIN_HTTP=True):
        yield


@pytest.fixture
def http() -> Iterator[Http]:
    with receivers.http() as made:
        yield made


def client_of(*codenames: str, name: str = "somebody") -> Client:
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def text_of(client: Client, path: str) -> str:
    answer = client.get(path, follow=True)
    assert answer.status_code == 200
    return " ".join(str(answer.content.decode()).split())


def post(client: Client, path: str, **data: Any) -> str:  # noqa: ANN401 -- form values
    answer = client.post(path, data, follow=True)
    assert answer.status_code == 200
    return " ".join(str(answer.content.decode()).split())


def collector(**values: Any) -> RelayDestination:  # noqa: ANN401 -- fields
    held: dict[str, Any] = {"name": "Grafana", "endpoint": "http://127.0.0.1:4318"}
    return RelayDestination.objects.create(**held | {"since_at": now()} | values)


def stream(**values: Any) -> Stream:  # noqa: ANN401 -- fields
    held: dict[str, Any] = {"name": "SIEM", "kind": "webhook", "endpoint": "http://127.0.0.1:1/x"}
    return Stream.objects.create(**held | values)


def letter(target: RelayDestination | Stream, **values: Any) -> DeadLetter:  # noqa: ANN401 -- fields
    field = "destination" if isinstance(target, RelayDestination) else "stream"
    held: dict[str, Any] = {"signal": "traces", "record_count": 7, "body": b"x", "body_bytes": 1}
    held |= {"error": "no room", "at": now(), "status": 400, field: target}
    return DeadLetter.objects.create(**held | values)


COLLECTOR_FORM: dict[str, Any] = {
    "name": "Grafana",
    "endpoint": "http://127.0.0.1:4318",
    "profile": "1.41",
    "sends_traces": "on",
    "header_name": ["Authorization", ""],
    "header_env": ["FLEET_OTLP_HDR_GRAFANA", ""],
    "max_age_h": "24",
    "reason": "Traces for the platform team",
}
STREAM_FORM: dict[str, Any] = {
    "name": "SIEM",
    "kind": "webhook",
    "endpoint": "http://127.0.0.1:9/hook",
    "sends_audit": "on",
    "sends_alerts": "on",
    "secret_env": "FLEET_HOOK_SIEM",
    "starts": "now",
    "reason": "Audit goes to the SIEM",
}


# --------------------------------------------------------------------------------------- forms


def test_a_collector_is_added_with_names_of_variables_and_audited() -> None:
    group = InstallGroup.objects.create(name="Build")
    client = client_of("view_relaydestination", "add_relaydestination")
    shown = post(client, COLLECTORS + "add/", **COLLECTOR_FORM, groups=[group.pk])
    assert "Added." in shown
    made = RelayDestination.objects.get()
    assert made.headers_env == {"Authorization": "FLEET_OTLP_HDR_GRAFANA"}
    assert (made.group_ids, made.max_age_h, made.sends_logs) == ([group.pk], 24, False)
    row = ChangeRecord.objects.get(action="collector.add")
    assert (row.actor, row.reason) == ("somebody", "Traces for the platform team")
    assert "FLEET_OTLP_HDR_GRAFANA" in row.post_json


def test_a_secret_that_is_typed_as_a_header_is_refused_and_not_shown_again() -> None:
    client = client_of("view_relaydestination", "add_relaydestination")
    shown = post(client, COLLECTORS + "add/", **COLLECTOR_FORM | {"header_env": [SECRET]})
    assert "write the NAME of a variable that begins with FLEET_OTLP_HDR_" in shown
    assert SECRET not in shown
    assert SECRET.split()[1] not in shown
    assert not RelayDestination.objects.exists()


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://ann:pw@127.0.0.1:4318", "No login in the address|hold a secret"),
        ("http://127.0.0.1:4318/?api_key=x", "secret|what follows"),
        ("ftp://127.0.0.1", "must begin with"),
        ("http://10.0.0.1:4318", "FLEET_OTLP_HOSTS"),
        ("http://169.254.169.254", "FLEET_OTLP_HOSTS"),
    ],
)
def test_an_address_that_is_refused_says_why(endpoint: str, said: str) -> None:
    client = client_of("view_relaydestination", "add_relaydestination")
    shown = post(client, COLLECTORS + "add/", **COLLECTOR_FORM | {"endpoint": endpoint})
    assert any(part in shown for part in said.split("|"))
    assert not RelayDestination.objects.exists()


def test_a_collector_without_a_signal_or_with_a_taken_name_is_refused() -> None:
    collector()
    client = client_of("view_relaydestination", "add_relaydestination")
    form = {name: value for name, value in COLLECTOR_FORM.items() if name != "sends_traces"}
    shown = post(client, COLLECTORS + "add/", **form)
    assert "Choose at least one signal" in shown
    assert "one of this name already" in shown


def test_a_collector_is_edited_with_before_and_after() -> None:
    made = collector(headers_env={"X-Scope": "FLEET_OTLP_HDR_SCOPE"})
    client = client_of("view_relaydestination", "change_relaydestination")
    path = f"{COLLECTORS}{made.pk}/edit/"
    assert 'value="FLEET_OTLP_HDR_SCOPE"' in text_of(client, path)
    assert "Saved." in post(client, path, **COLLECTOR_FORM)
    row = ChangeRecord.objects.get(action="collector.change")
    assert (row.pre, row.post) != (None, None)
    assert "FLEET_OTLP_HDR_SCOPE" in row.pre_json
    assert "FLEET_OTLP_HDR_GRAFANA" in row.post_json
    assert "Nothing was changed" in post(client, path, **COLLECTOR_FORM)
    assert ChangeRecord.objects.filter(action="collector.change").count() == 1


def test_a_stream_begins_now_unless_asked_otherwise() -> None:
    InstallGroup.objects.create(name="g")
    AlertEvent.objects.create(key="x", state="raised", severity="bad", text="x", at=now())
    client = client_of("view_stream", "add_stream")
    post(client, STREAMS + "add/", **STREAM_FORM)
    first = Stream.objects.get()
    assert first.alert_position == AlertEvent.objects.get().pk
    post(client, STREAMS + "add/", **STREAM_FORM | {"name": "All", "starts": "all"})
    assert Stream.objects.get(name="All").alert_position == 0
    assert ChangeRecord.objects.filter(action="stream.add").count() == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"secret_env": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "begins with FLEET_HOOK_"),
        ({"secret_env": "FLEET_SECRET_KEY"}, "begins with FLEET_HOOK_"),
        ({"endpoint": "http://127.0.0.1/${FLEET_SECRET_KEY}"}, "begins with FLEET_HOOK_"),
        ({"endpoint": "http://${FLEET_HOOK_X}/x"}, "in the path"),
        ({"kind": "syslog", "endpoint": "tcp://127.0.0.1:601"}, "Only webhooks are signed"),
        ({"kind": "syslog", "secret_env": ""}, "a host and a port"),
        (
            {"kind": "syslog", "secret_env": "", "endpoint": "tcp://127.0.0.1:601/x"},
            "a host and a port",
        ),
        ({"header_name": ["X"], "header_env": ["PATH"]}, "begins with FLEET_OTLP_HDR_"),
    ],
)
def test_what_a_stream_may_not_have_is_explained(values: dict[str, Any], said: str) -> None:
    shown = post(client_of("view_stream", "add_stream"), STREAMS + "add/", **STREAM_FORM | values)
    assert said in shown
    assert "whsec_MfKQ" not in shown
    assert not Stream.objects.exists()


def test_slack_s_secret_address_is_refused_with_what_to_write() -> None:
    secret = "https://hooks.slack.com/services/T0ABCDEFG/B0ABCDEFG/a1b2c3d4e5f6g7h8i9j0k1l2"
    with override_settings(FLEET_OTLP_HOSTS=[]):
        client = client_of("view_stream", "add_stream")
        shown = post(client, STREAMS + "add/", **STREAM_FORM | {"endpoint": secret})
    assert "Write ${FLEET_HOOK_NAME} for its secret part" in shown
    assert "a1b2c3d4e5f6g7h8i9j0k1l2" not in shown


# ----------------------------------------------------------------------------------- permissions


def test_without_permission_nothing_is_shown() -> None:
    one, two = collector(), stream()
    dead, alert = letter(one), AlertEvent.objects.create(key="x", state="raised", at=now())
    client = client_of()
    for path in (
        *(COLLECTORS, f"{COLLECTORS}{one.pk}/change/", f"{COLLECTORS}{one.pk}/state/"),
        *(STREAMS, f"{STREAMS}{two.pk}/change/", f"{STREAMS}{two.pk}/state/"),
        *(LETTERS, f"{LETTERS}{dead.pk}/change/", ALERTS, f"{ALERTS}{alert.pk}/change/"),
        *(COLLECTORS + "add/", STREAMS + "add/"),
    ):
        assert client.get(path, follow=True).status_code == 403, path


@pytest.mark.parametrize("kind", ["relaydestination", "stream"])
def test_whoever_may_only_look_can_do_nothing(kind: str) -> None:
    made = collector() if kind == "relaydestination" else stream()
    client = client_of(f"view_{kind}")
    path = f"/telemetry/{kind}/{made.pk}/"
    shown = text_of(client, path + "change/")
    for word in ("Pause…", "Edit", "Delete…", ">Test<", "Estimate…"):
        assert word not in shown
    for word in ("edit", "test", "switch", "remove"):
        data = {"confirmed": "yes", "reason": "x", "action": "pause"}
        assert client.post(f"{path}{word}/", data).status_code == 403, word
    assert client.post(f"/telemetry/{kind}/add/", {}).status_code == 403
    made.refresh_from_db()
    assert made.is_enabled
    assert not ChangeRecord.objects.exists()


def test_letters_are_shown_to_whoever_sees_what_refused_them() -> None:
    letter(collector(), error="of a collector")
    letter(stream(), error="of a stream")
    shown = text_of(client_of("view_stream", "replay_relaydestination"), LETTERS)
    assert "of a stream" in shown
    assert "of a collector" not in shown
    for odd in ("²", "9" * 40, "-1", "x"):
        text_of(client_of("view_stream", name=odd), f"{LETTERS}?stream={odd}")


def act(client: Client, action: str, *letters: DeadLetter, **data: str) -> str:
    ids = [str(each.pk) for each in letters]
    values: dict[str, Any] = {"action": action, "_selected_action": ids, "index": "0"}
    return post(client, LETTERS, **values | data)


def test_replay_needs_the_permission_of_its_kind() -> None:
    one, two = letter(collector()), letter(stream())
    client = client_of("view_stream", "view_relaydestination", "replay_stream")
    assert "Send 1 letter again?" in act(client, "replay", one, two)
    act(client, "replay", one, two, confirmed="yes", reason="Mended")
    one.refresh_from_db()
    two.refresh_from_db()
    assert (one.replay_asked_at, two.replay_asked_at is None) == (None, False)
    act(client, "discard", two, confirmed="yes", reason="x")
    assert DeadLetter.objects.count() == 2


def test_a_replay_asks_first_and_is_audited() -> None:
    one, two = letter(stream()), letter(collector())
    client = client_of("view_stream", "replay_stream", "view_relaydestination")
    shown = act(client, "replay", one)
    assert "Send 1 letter again?" in shown
    assert "7 records go out" in shown
    assert not DeadLetter.objects.exclude(replay_asked_at=None).exists()
    assert "1 letter is sent again" in act(client, "replay", one, confirmed="yes", reason="Mended")
    row = ChangeRecord.objects.get()
    assert (row.reason, row.object_label) == ("Mended", "SIEM")
    assert "None of them can be sent again" in act(client, "replay", one, two)


def test_a_letter_is_discarded_after_a_reason() -> None:
    one = letter(stream())
    client = client_of("view_stream", "delete_deadletter")
    assert "Discard 1 letter?" in act(client, "discard", one)
    act(client, "discard", one, confirmed="yes", reason="Not wanted")
    assert not DeadLetter.objects.exists()
    assert ChangeRecord.objects.get().reason == "Not wanted"


# ----------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("kind", ["relaydestination", "stream"])
def test_pausing_and_deleting_ask_for_a_reason_and_are_audited(kind: str) -> None:
    made = collector() if kind == "relaydestination" else stream()
    client = client_of(f"view_{kind}", f"change_{kind}", f"delete_{kind}")
    path = f"/telemetry/{kind}/{made.pk}/"
    assert f"Pause {made.name}?" in post(client, path + "switch/")
    assert "Say why" in post(client, path + "switch/", action="pause", confirmed="yes")
    post(client, path + "switch/", action="pause", confirmed="yes", reason="Maintenance")
    made.refresh_from_db()
    assert not made.is_enabled
    assert f"Resume {made.name}?" in post(client, path + "switch/")
    post(client, path + "switch/", action="resume", confirmed="yes", reason="Done")
    letter(made)
    assert "dead letters (1)" in post(client, path + "remove/")
    post(client, path + "remove/", confirmed="yes", reason="Replaced")
    assert not type(made).objects.exists()
    reasons = ChangeRecord.objects.order_by("pk").values_list("reason", flat=True)
    assert list(reasons) == ["Maintenance", "Done", "Replaced"]


def test_a_collector_s_test_is_told_step_by_step(http: Http) -> None:
    made = collector(endpoint=http.url, headers_env={"Authorization": "FLEET_OTLP_HDR_NOWHERE"})
    client = client_of("view_relaydestination", "test_relaydestination")
    shown = post(client, f"{COLLECTORS}{made.pk}/test/")
    assert "FLEET_OTLP_HDR_NOWHERE is not set" in shown
    assert "not tried" in shown
    assert http.posts == []
    RelayDestination.objects.update(headers_env={})
    http.answer = lambda _post: Say(200)
    assert "took the test signal" in post(client, f"{COLLECTORS}{made.pk}/test/")
    assert [post.path for post in http.posts] == ["/v1/traces"]


def test_a_stream_s_test_is_told(http: Http) -> None:
    made = stream(endpoint=http.url + "/hook")
    client = client_of("view_stream", "test_stream")
    assert "took the test record" in post(client, f"{STREAMS}{made.pk}/test/")
    http.answer = lambda _post: Say(403, b"who are you?")
    assert "403: who are you?" in post(client, f"{STREAMS}{made.pk}/test/")


def test_the_living_part_is_a_part_and_is_not_kept() -> None:
    for made, path in ((collector(), COLLECTORS), (stream(), STREAMS)):
        client = Client()
        client.force_login(User.objects.create_superuser(f"root{made.pk}{made.name}"))
        answer = client.get(f"{path}{made.pk}/state/")
        assert "no-store" in answer.headers["Cache-Control"]
        assert b"<html" not in answer.content
        assert f'data-hf-live="{path}{made.pk}/state/"' in text_of(
            client, f"{path}{made.pk}/change/"
        )


def test_a_back_fill_says_how_much_before_it_is_done() -> None:
    made = collector(since_at=now(), max_age_h=48)
    for age_h in (1, 2, 30):
        at = now() - timedelta(hours=age_h)
        FeedEntry.objects.create(
            install_id=make.INSTALL, batch_id=make.INSTALL, received_at=at, row_count=500
        )
    FeedEntry.objects.create(
        install_id=make.INSTALL,
        batch_id=make.INSTALL,
        received_at=made.since_at + timedelta(seconds=1),
        row_count=9,
    )
    client = client_of("view_relaydestination", "change_relaydestination")
    path, since = f"{COLLECTORS}{made.pk}/backfill/", now() - timedelta(hours=3)
    text = f"{since:%Y-%m-%dT%H:%M}"
    shown = post(client, path, since=text)
    assert "About 1,000 rows of 2 batches." in shown
    assert "older than 48 hours" in shown
    post(client, path, since=text, confirmed="yes", reason="The collector was rebuilt")
    made.refresh_from_db()
    assert f"{made.since_at:%Y-%m-%dT%H:%M}" == text
    assert ChangeRecord.objects.get().reason == "The collector was rebuilt"
    assert "Choose a time that is over" in post(client, path, since="2999-01-01T00:00")
    assert "are sent as it is" in post(client, path, since=f"{now():%Y-%m-%dT%H:%M}")


def test_hostile_words_of_a_receiver_are_text_everywhere() -> None:
    one = collector(name=HOSTILE, test_error=HOSTILE)
    two = stream(name=HOSTILE, last_error=HOSTILE, last_error_at=now(), failure_count=9)
    dead = letter(two, error=HOSTILE)
    alert = AlertEvent.objects.create(key=HOSTILE, state="raised", text=HOSTILE, at=now())
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    for path in (
        *(COLLECTORS, f"{COLLECTORS}{one.pk}/change/", STREAMS, f"{STREAMS}{two.pk}/change/"),
        *(LETTERS, f"{LETTERS}{dead.pk}/change/", ALERTS, f"{ALERTS}{alert.pk}/change/"),
    ):
        shown = text_of(client, path)
        assert HOSTILE not in shown, path
        assert "&lt;script&gt;alert(1)" in shown, path


def test_alerts_show_what_is_open_first_and_where_to_look() -> None:
    made = stream()
    for key, state in (("install_silent", "raised"), (f"stream:{made.pk}", "raised")):
        AlertEvent.objects.create(key=key, state=state, severity="bad", text=key, at=now())
    AlertEvent.objects.create(key="install_silent", state="cleared", text="over", at=now())
    shown = text_of(client_of("view_alertevent"), ALERTS)
    opened = shown[shown.index("Open now") : shown.index("</section>", shown.index("Open now"))]
    assert f'href="{STREAMS}{made.pk}/change/"' in opened
    assert "install_silent" not in opened
    event = AlertEvent.objects.earliest("pk")
    detail = text_of(again(), f"{ALERTS}{event.pk}/change/")
    assert "over" in detail


def again() -> Client:
    client = Client()
    client.force_login(User.objects.get(username="somebody"))
    return client
