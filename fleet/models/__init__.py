"""The fleet domain's tables; import them from here."""

from __future__ import annotations

from fleet.models.change import ChangeRecord
from fleet.models.checkin import CheckInRecord
from fleet.models.credential import (
    STALE_DAYS,
    Approval,
    EnrollmentRequest,
    EnrollmentToken,
    InstallCredential,
    RequestStatus,
)
from fleet.models.erasure import ErasedCredential, Erasure
from fleet.models.fleet import Fleet, ProcessBeat
from fleet.models.group import InstallGroup
from fleet.models.install import Install, InstallQuerySet, InstallStatus, SyncState
from fleet.models.policy import (
    InstallBundle,
    InstallPolicy,
    OnExpiry,
    Pin,
    PinLevel,
    PinScope,
    PolicyBundle,
    PolicyRevision,
    PolicyTarget,
)
from fleet.models.watched import SEEN_DAYS, ProcessSeen, TaskRun

__all__ = [
    "SEEN_DAYS",
    "STALE_DAYS",
    "Approval",
    "ChangeRecord",
    "CheckInRecord",
    "EnrollmentRequest",
    "EnrollmentToken",
    "ErasedCredential",
    "Erasure",
    "Fleet",
    "Install",
    "InstallBundle",
    "InstallCredential",
    "InstallGroup",
    "InstallPolicy",
    "InstallQuerySet",
    "InstallStatus",
    "OnExpiry",
    "Pin",
    "PinLevel",
    "PinScope",
    "PolicyBundle",
    "PolicyRevision",
    "PolicyTarget",
    "ProcessBeat",
    "ProcessSeen",
    "RequestStatus",
    "SyncState",
    "TaskRun",
]
