"""Whether a plane is open for an install: its consent receipt and its effective policy decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db.models import F

from fleet.enroll.erasure import ERASED_DETAIL, is_erased
from fleet.lib.clock import now
from fleet.models import Install
from fleet.policy.effective import effective_values
from telemetry.ingest.decode import IngestError
from telemetry.models import ClosedPlane

CONTENT_KEY: Final = "telemetry.trajectories.enabled"


def plane_is_open(
    install: Install, plane: str, *, consent: Mapping[str, object], bound: Mapping[str, object]
) -> bool:
    """Whether a batch of a plane may come in from an install, with the consent it carries."""
    if plane != "trajectories":
        return is_open(plane, consent=consent, bound=bound)
    return is_open("local", consent=consent, bound=bound) and opens_content(
        is_switched_on=settings.FLEET_TRAJECTORIES,
        is_asked_for=effective_values(install)[CONTENT_KEY].value is True,
        consent=consent,
    )


def opens_content(
    *, is_switched_on: bool, is_asked_for: bool, consent: Mapping[str, object]
) -> bool:
    """Whether content may come in; pure. Three say so, each for itself, and any one shuts it.

    The console's own switch; the install's effective policy, which has to ask for it; and the
    consent that came with this very batch.
    """
    return is_switched_on and is_asked_for and consent.get("trajectories") is True


def scrubs_pii(install: Install) -> bool:
    """Whether personal data in an install's content is replaced on arrival.

    Yes, unless this console keeps it and the install's policy does not ask for its removal.
    """
    if not settings.FLEET_CONTENT_KEEP_PII:
        return True
    asked = effective_values(install).get("telemetry.content_redaction")
    return asked is not None and asked.value == "pii"


def refuse_erased(install_id: UUID) -> None:
    """Keep out what comes of an erased install, whichever way. Errors: IngestError install_erased.

    Asked under the install's lock: a batch either committed before the tombstone, or sees it.
    """
    if is_erased(install_id):
        raise IngestError("install_erased", ERASED_DETAIL)


def is_open(plane: str, *, consent: Mapping[str, object], bound: Mapping[str, object]) -> bool:
    """Whether a batch of a plane without content may come in; pure.

    ``bound`` are the keys that the install's policy binds. Local: open, unless the policy
    switches the recording or the push off. Aggregate: needs the consent that came with the batch,
    and no policy against it. Trajectories: never by this way.
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
