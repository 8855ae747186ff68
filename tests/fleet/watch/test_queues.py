"""What waits in a broker is counted, with the age of the oldest, on files and on Redis."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from celery import Celery
from django.test import override_settings

from fleet.watch import queues
from fleet.watch.queues import Waiting, waiting


def send(url: str, options: dict[str, str], queue: str, count: int) -> None:
    app = Celery("other", broker=url)
    app.conf.update(broker_transport_options=options, task_serializer="json")
    with app.connection_for_write() as connection:
        for _index in range(count):
            app.send_task("tests.nobody", queue=queue, connection=connection)


def found(name: str) -> Waiting:
    queues.connect()
    return next(each for each in waiting() or () if each.name == name)


def test_files_are_counted_by_queue(tmp_path: Path) -> None:
    options = {
        "data_folder_in": str(tmp_path),
        "data_folder_out": str(tmp_path),
        "control_folder": str(tmp_path / "control"),
    }
    (tmp_path / "control").mkdir()
    send("filesystem://localhost", options, "relay", 3)
    oldest = min(tmp_path.glob("*.msg"))
    os.utime(oldest, (time.time() - 500,) * 2)
    with override_settings(REDIS_URL="", CELERY_BROKER_TRANSPORT_OPTIONS=options):
        relay, fleet = found("relay"), found("fleet")
    assert (relay.count, fleet) == (3, Waiting("fleet", 0, None))
    assert relay.oldest_s is not None
    assert 490 < relay.oldest_s < 600


@pytest.mark.redis
def test_redis_says_how_many_and_since_when(redis_url: str) -> None:
    queues.connect()
    send(redis_url, {}, "export", 2)
    with override_settings(REDIS_URL=redis_url):
        export = found("export")
        assert (export.count, found("fleet")) == (2, Waiting("fleet", 0, None))
    assert export.oldest_s is not None
    assert 0 <= export.oldest_s < 60


@pytest.mark.redis
def test_a_message_that_does_not_say_when_has_no_age(redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.lpush("fleet", b"\xff not json", b'{"headers": []}')
    with override_settings(REDIS_URL=redis_url):
        assert found("fleet") == Waiting("fleet", 2, None)


@override_settings(REDIS_URL="redis://127.0.0.1:1/0")
def test_a_broker_that_is_away_is_none_and_not_an_error() -> None:
    assert waiting() is None
