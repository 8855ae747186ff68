"""The Celery app: queues and the beat schedule, one literal, UTC.

The database is the queue and the truth; a task is a nudge that may come twice or not at
all. On Redis and on the plain-file broker the same code runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from celery import Celery
from celery.signals import (
    beat_embedded_init,
    beat_init,
    before_task_publish,
    setup_logging,
    worker_init,
)

from fleet.lib.files_broker import sweep

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")

QUEUE_DEFAULT: Final = "fleet"
QUEUE_ROLLUP: Final = "rollup"
"""Its own queue, so that a worker can be kept for it and the console's numbers stay fresh."""
QUEUE_EXPORT: Final = "export"
"""Its own queue: an export of an hour must not keep the console's other work waiting."""
QUEUE_RELAY: Final = "relay"
"""Its own as well: a collector that hangs must not keep anything else waiting."""
HEARTBEAT_TASK: Final = "fleet.tasks.heartbeat"
HEARTBEAT_EVERY_S: Final = 15.0

app = Celery("fleet")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(
    enable_utc=True,
    timezone="UTC",
    task_default_queue=QUEUE_DEFAULT,
    task_routes={
        "telemetry.rollup.*": {"queue": QUEUE_ROLLUP},
        "telemetry.relay.tasks.relay": {"queue": QUEUE_RELAY},
        "telemetry.streams.tasks.send_one": {"queue": QUEUE_RELAY},
        # Quick, and not to wait behind an export.
        "telemetry.exports.tasks_schedule.*": {"queue": QUEUE_DEFAULT},
        "telemetry.exports.*": {"queue": QUEUE_EXPORT},
    },
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_serializer="json",
    accept_content=["json"],
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    beat_schedule={
        # expires: after an outage the newest nudge is enough, not a thousand of them.
        "heartbeat": {
            "task": HEARTBEAT_TASK,
            "schedule": HEARTBEAT_EVERY_S,
            "options": {"expires": 60},
        },
        "mark-offline": {
            "task": "fleet.tasks.mark_offline",
            "schedule": 60.0,
            "options": {"expires": 60},
        },
        "fill-touched": {
            "task": "telemetry.rollup.tasks.fill_touched",
            "schedule": 5.0,
            "options": {"expires": 5},
        },
        "forget-stale": {
            "task": "fleet.tasks.forget_stale",
            "schedule": 3600.0,
            "options": {"expires": 3600},
        },
        "go-on-erasing": {
            "task": "telemetry.store.tasks.go_on_erasing",
            "schedule": 60.0,
            "options": {"expires": 60},
        },
        "drain-spool": {
            "task": "telemetry.ingest.tasks.drain_spool",
            "schedule": 5.0,
            "options": {"expires": 5},
        },
        "number-feed": {
            "task": "telemetry.relay.tasks.number_feed",
            "schedule": 2.0,
            "options": {"expires": 2},
        },
        "relay": {
            "task": "telemetry.relay.tasks.relay",
            "schedule": 2.0,
            "options": {"expires": 2},
        },
        "keep-relay-books": {
            "task": "telemetry.relay.tasks.keep_relay_books",
            "schedule": 3600.0,
            "options": {"expires": 3600},
        },
        "run-quarantine-jobs": {
            "task": "telemetry.ingest.tasks.run_quarantine_jobs",
            "schedule": 10.0,
            "options": {"expires": 10},
        },
        "look-for-alerts": {
            "task": "telemetry.streams.tasks.look_for_alerts",
            "schedule": 60.0,
            "options": {"expires": 60},
        },
        "send-streams": {
            "task": "telemetry.streams.tasks.send_streams",
            "schedule": 5.0,
            "options": {"expires": 5},
        },
        "run-exports": {
            "task": "telemetry.exports.tasks.run_exports",
            "schedule": 60.0,
            "options": {"expires": 60},
        },
        "expire-exports": {
            "task": "telemetry.exports.tasks.expire_exports",
            "schedule": 3600.0,
            "options": {"expires": 3600},
        },
        "order-scheduled-exports": {
            "task": "telemetry.exports.tasks_schedule.order_scheduled",
            "schedule": 30.0,
            "options": {"expires": 30},
        },
        "maintain-partitions": {
            "task": "telemetry.store.tasks.maintain_partitions",
            "schedule": 3600.0,
            "options": {"expires": 3600},
        },
    },
)
app.autodiscover_tasks()
app.autodiscover_tasks(
    [f"telemetry.{name}" for name in ("exports", "ingest", "relay", "rollup", "store", "streams")]
)
app.autodiscover_tasks(["telemetry.exports"], related_name="tasks_schedule")


@setup_logging.connect
def _use_django_logging(**_kwargs: object) -> None:
    """Keep Celery from replacing the JSON logs with its own."""
    import logging.config

    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)


@before_task_publish.connect(sender=HEARTBEAT_TASK)
def _note_beat(**_kwargs: object) -> None:
    """Beat shows life by sending: only it sends this task."""
    from fleet.tasks import note_beat

    note_beat("beat")


@worker_init.connect
@beat_init.connect
def _refuse_halves(**_kwargs: object) -> None:
    """Do not start between the halves of a restore."""
    from fleet.half_restored import refuse_start

    refuse_start()


@beat_init.connect
@beat_embedded_init.connect
def _beat_at_once(**_kwargs: object) -> None:
    """Send the first heartbeat now: the schedule's own comes only after its first interval."""
    app.send_task(HEARTBEAT_TASK, expires=60)


def make_broker_folders() -> None:
    """Create the plain-file broker's folders, swept; nothing to do for Redis."""
    options: dict[str, Any] = app.conf.broker_transport_options or {}  # Any: transport's own
    for name in ("data_folder_in", "data_folder_out", "control_folder"):
        if name in options:
            Path(options[name]).mkdir(mode=0o700, parents=True, exist_ok=True)
    if "data_folder_in" in options:
        sweep(Path(options["data_folder_in"]))


make_broker_folders()
