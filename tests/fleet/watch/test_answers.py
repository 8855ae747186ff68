"""Probes: alive without a database, ready with one that fits, and open to whoever asks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from pytest_django import Settings

from fleet.watch import ready
from fleet.watch.kept import Kept

NOBODYS_HOST = "10.1.2.3:8000"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    ready.forget()
    yield
    ready.forget()


@pytest.fixture
def client() -> Client:
    return Client(SERVER_NAME="10.1.2.3")


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
def test_a_process_that_lives_says_so_without_a_database(client: Client, path: str) -> None:
    answer = client.get(path)  # this test may not touch the database
    assert (answer.status_code, answer.content) == (200, b"ok\n")
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_probe_by_address_over_plain_http_is_answered(client: Client, settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["fleet.example"]
    settings.SECURE_SSL_REDIRECT = True
    assert client.get("/livez", headers={"Host": NOBODYS_HOST}).status_code == 200
    assert client.get("/", headers={"Host": NOBODYS_HOST}).status_code in {301, 400}


@pytest.mark.django_db(transaction=True)
@pytest.mark.both_engines
def test_a_console_with_its_tables_is_ready(client: Client) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.content) == (200, b"ready\n")


@pytest.mark.django_db
@pytest.mark.both_engines
def test_a_migration_that_is_missing_is_seen() -> None:
    assert ready.look() == ""
    MigrationRecorder(connection).record_unapplied("fleet", "0002_erasure")
    assert ready.look() == ready.PENDING


def test_a_database_that_is_away_is_503_with_a_reason(client: Client) -> None:
    answer = client.get("/readyz")  # pytest-django refuses this test the database, in any thread
    body = json.loads(answer.content)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (body["code"], body["detail"]) == ("unavailable", ready.NO_ANSWER)


@pytest.mark.django_db(transaction=True)
def test_a_process_that_stops_is_not_ready_but_lives(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.watch.ready.is_stopping", lambda: True)
    answer = client.get("/readyz")
    assert (answer.status_code, json.loads(answer.content)["detail"]) == (503, ready.STOPPING)
    assert client.get("/livez").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_a_hundred_probes_look_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look() -> str:
        looks.append(1)
        return ""

    monkeypatch.setattr("fleet.watch.ready._kept", Kept(look, keep_s=60, wait_s=5))
    assert {client.get("/readyz").status_code for _index in range(100)} == {200}
    assert len(looks) == 1


def test_a_probe_only_asks(client: Client) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        answer = client.post(path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_is_answered(client: Client) -> None:
    assert client.head("/livez").status_code == 200
