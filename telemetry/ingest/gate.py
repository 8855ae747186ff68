"""Whether a plane is open for an install: its consent receipt and its effective policy decide."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from django.db.models import F

from fleet.lib.clock import now
from telemetry.models import ClosedPlane


def is_open(plane: str, *, consent: Mapping[str, object], bound: Mapping[str, object]) -> bool:
    """Whether a batch of a plane may come in; pure.

    ``bound`` are the keys that the install's policy binds. Local: open, unless the policy
    switches the recording or the push off. Aggregate: needs the consent that came with the batch,
    and no policy against it. Trajectories: closed in this version.
    """
    if plane == "local":
        return (
            bound.get("telemetry.local") is not False
            and bound.get("telemetry.export.console.enabled") is not False
        )
    if plane == "aggregate":
        return (
            consent.get("consent_state") == "aggregate"
            and consent.get("allow_aggregate") is not False
            and bound.get("telemetry.allow_aggregate") is not False
            and bound.get("telemetry.consent_state", "aggregate") == "aggregate"
        )
    return False


def count_refusal(install_id: UUID, plane: str) -> None:
    """Count one push that was refused at a closed plane; the rest of it is forgotten."""
    moment = now()
    ClosedPlane.objects.get_or_create(
        install_id=install_id, plane=plane, defaults={"last_refused_at": moment}
    )
    ClosedPlane.objects.filter(install_id=install_id, plane=plane).update(
        refused_count=F("refused_count") + 1, last_refused_at=moment
    )
