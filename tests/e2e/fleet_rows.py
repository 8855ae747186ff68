"""A small fleet with every kind of row the console shows, hostile names included."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from uuid import UUID, uuid4

from django.test import override_settings

from fleet.lib.clock import now
from fleet.models import Install, InstallGroup
from telemetry.ingest.quarantine import Choice, order_job
from telemetry.ingest.receive import BatchHeader, receive_batch
from telemetry.models import IngestBatch, QuarantinedLine, QuarantineJob, SpooledBatch
from telemetry.rollup.fill import fill_pending
from tests import builders
from tests.telemetry import builders as rows

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
BACKWARDS = "\u202egnirts desrever"
LONG = "x" * 200
SUMMARIES: dict[str, list[dict[str, Any]]] = json.loads(
    files("agent_client.contract").joinpath("vectors/aggregate.json").read_text(encoding="utf-8")
)
HOSTILE = (SCRIPT, IMAGE, BACKWARDS, LONG)


@dataclass(frozen=True, slots=True)
class Seeded:
    """What was made, for the addresses of the pages."""

    install_id: UUID
    run_id: str
    group_id: int
    batch_pk: int
    revision_pk: int
    line_pk: int
    job_pk: int


def seed() -> Seeded:
    """Installs, runs, a refused line, a published policy."""
    group = builders.make_group(IMAGE[:100])
    installs = [builders.make_install(hostname=name, group=group) for name in HOSTILE]
    push_runs(installs[0].pk)
    push_summaries(installs[0].pk)
    fill_pending()
    builders.make_pin("telemetry.retention_days", 30, is_locked=True)
    builders.make_pin("model.default", SCRIPT, group=group)
    revision = builders.publish(IMAGE)
    # Publishing has made all of them pending.
    Install.objects.update(last_seen_at=now(), last_checkin_at=now(), sync_state="in_sync")
    Install.objects.filter(pk=installs[1].pk).update(
        sync_state="drifted", sync_cause=f"model.default: {SCRIPT}"
    )
    batch = IngestBatch.objects.get(plane="local")
    line = QuarantinedLine.objects.earliest("pk")
    return Seeded(installs[0].pk, IMAGE, group.pk, batch.pk, revision.pk, line.pk, quarantine_job())


def quarantine_job() -> int:
    """A replay that nobody has begun, and a batch in the spool that was set aside."""
    job = order_job(QuarantineJob.Action.REPLAY, Choice(), actor=SCRIPT, reason=LONG)
    with override_settings(FLEET_VALVE="open"):
        rows.push(rows.run(20, run_id="spooled"))
    SpooledBatch.objects.update(set_aside_at=now(), attempts=5, last_error=IMAGE)
    return job.pk


def push_runs(install_id: UUID) -> None:
    """Two runs, one of them hostile in every name, through the real ingest."""
    records = [
        rows.run(1, run_id=IMAGE, entrypoint=SCRIPT, end_reason="completed", platform=LONG),
        rows.run(2, run_id="run-2", end_reason="failed", parent_run_id=IMAGE),
        rows.model_call(3, run_id=IMAGE, model=SCRIPT, provider=IMAGE),
        rows.tool_call(4, run_id=IMAGE, tool_name=IMAGE, result_class="error"),
        rows.error(5, run_id=IMAGE, error_class=SCRIPT, subsystem=BACKWARDS),
        rows.span(
            6, run_id=IMAGE, name=LONG, attrs_json='{"<b>x</b>": "<script>alert(1)</script>"}'
        ),
        rows.record("tel_skill_events", 7, run_id=IMAGE, skill_name=SCRIPT, action=IMAGE),
        rows.record("tel_gateway_events", 8, run_id=IMAGE, platform=IMAGE, result=SCRIPT),
        rows.record("tel_cron_events", 9, run_id=IMAGE, kind=SCRIPT, parent_span_id="span-6"),
        rows.record("tel_memory_events", 10, run_id=IMAGE, action=LONG, parent_span_id="span-6"),
        rows.record("tel_feedback_events", 11, run_id=IMAGE, kind=BACKWARDS),
    ]
    body = rows.body(*records, b'{"_kind": "<script>alert(1)</script>"}', b"not json")
    header = BatchHeader(
        install_id=install_id,
        batch_id=UUID("01890000-0000-7000-8000-0000000000aa"),
        losses={SCRIPT: 3},
        client=IMAGE,
    )
    receive_batch(header, body)


def push_summaries(install_id: UUID) -> None:
    """A summary and a heartbeat, and a line that tries to say more than its type lets it."""
    at_ns = rows.recent_ns()
    run, beat = (
        {**vector["record"], "occurred_ns": at_ns}
        for vector in (SUMMARIES["valid"][0], SUMMARIES["valid"][-1])
    )
    beat["install_id"] = str(install_id)
    consent = {"consent_state": "aggregate", "policy_version": 3}
    header = BatchHeader(
        install_id=install_id, batch_id=uuid4(), plane="aggregate", consent=consent
    )
    receive_batch(header, rows.body(run, beat, {**run, "platform": SCRIPT}, {**run, IMAGE: 1}))


def group_of(seeded: Seeded) -> InstallGroup:
    """The group that was made."""
    return InstallGroup.objects.get(pk=seeded.group_id)


def pages(seeded: Seeded) -> dict[str, str]:
    """Every page of the console by name."""
    from urllib.parse import quote

    return {
        "overview": "/",
        "overview 30 d": f"/?range=30d&group={seeded.group_id}",
        "installs": "/fleet/install/",
        "install": f"/fleet/install/{seeded.install_id}/change/",
        "groups": "/fleet/installgroup/",
        "group": f"/fleet/installgroup/{seeded.group_id}/change/",
        "tokens": "/fleet/enrollmenttoken/",
        "new token": "/fleet/enrollmenttoken/add/",
        "requests": "/fleet/enrollmentrequest/",
        "pins": "/fleet/pin/",
        "new pin": "/fleet/pin/add/",
        "publish": "/publish/",
        "revisions": "/fleet/policyrevision/",
        "revision": f"/fleet/policyrevision/{seeded.revision_pk}/change/",
        "sync": "/sync/",
        "models and cost": "/insights/models/",
        "tools": "/insights/tools/?range=30d",
        "errors": "/insights/errors/?range=24h",
        "versions": f"/insights/versions/?group={seeded.group_id}&entrypoint={quote(SCRIPT)}",
        "active installs": "/insights/installs/",
        "runs": "/runs/",
        "run": f"/runs/{seeded.install_id}/?run={quote(seeded.run_id)}",
        "batches": "/telemetry/ingestbatch/",
        "batch": f"/telemetry/ingestbatch/{seeded.batch_pk}/change/",
        "quarantine": "/telemetry/quarantinedline/",
        "quarantined line": f"/telemetry/quarantinedline/{seeded.line_pk}/change/",
        "quarantine jobs": "/telemetry/quarantinejob/",
        "quarantine job": f"/telemetry/quarantinejob/{seeded.job_pk}/change/",
        "spool": "/telemetry/spooledbatch/",
        "summaries": "/telemetry/aggregaterecord/",
        "health": "/health/",
        "audit": "/fleet/changerecord/",
        "users": "/auth/user/",
        "roles": "/auth/group/",
    }
