"""What waits in the broker's queues: how many nudges, and since when the oldest one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis
from celery.signals import before_task_publish
from django.conf import settings

from fleet.celery import QUEUE_DEFAULT, QUEUE_EXPORT, QUEUE_RELAY, QUEUE_ROLLUP

QUEUES: Final = (QUEUE_DEFAULT, QUEUE_ROLLUP, QUEUE_EXPORT, QUEUE_RELAY)
SENT_AT: Final = "fleet_sent_at"
TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queue. ``oldest_s`` is None when nothing waits, or nobody knows since when."""

    name: str
    count: int
    oldest_s: float | None


def connect() -> None:
    """Have each message say when it was sent; called once by the app."""
    before_task_publish.connect(_on_publish, weak=False, dispatch_uid="fleet.queues")


def _on_publish(*, headers: dict[str, Any] | None = None, **_kwargs: object) -> None:
    if headers is not None:
        headers[SENT_AT] = round(time.time(), 3)


def waiting() -> list[Waiting] | None:
    """All queues, looked at now; None when the broker does not answer. Never raises."""
    try:
        return _in_redis() if settings.REDIS_URL else _in_files()
    except (redis.RedisError, OSError):
        return None


def _in_redis() -> list[Waiting]:
    client = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    )
    with client, client.pipeline(transaction=False) as ask:
        for name in QUEUES:
            # kombu pushes on the left and takes from the right.
            ask.llen(name)
            ask.lindex(name, -1)
        answers = ask.execute()
    return [
        Waiting(name, int(count), _age_s(last))
        for name, count, last in zip(QUEUES, answers[::2], answers[1::2], strict=True)
    ]


def _age_s(message: bytes | None) -> float | None:
    """How long ago a message was sent; None for one that does not say."""
    try:
        return max(0.0, time.time() - float(json.loads(message or b"")["headers"][SENT_AT]))
    except (ValueError, KeyError, TypeError):
        return None


def _in_files() -> list[Waiting]:
    """The plain-file broker: a file a message, its queue's name before its ending."""
    counts = dict.fromkeys(QUEUES, 0)
    oldest: dict[str, float] = {}
    folder = Path(str(settings.CELERY_BROKER_TRANSPORT_OPTIONS["data_folder_in"]))
    for path in folder.iterdir():
        name = path.name.removesuffix(".msg").rpartition(".")[2]
        if name not in counts:
            continue
        try:
            at_s = path.stat().st_mtime
        except FileNotFoundError:  # taken meanwhile
            continue
        counts[name] += 1
        oldest[name] = min(at_s, oldest.get(name, at_s))
    return [
        Waiting(name, count, max(0.0, time.time() - oldest[name]) if name in oldest else None)
        for name, count in counts.items()
    ]
