"""Who may speak: tokens, admission, rotation, revocation, quarantine.

Each write is one transaction with its audit row; what two agents may do at once is a
conditional UPDATE and a look at its row count.
"""

from __future__ import annotations

from fleet.enroll.admit import (
    Admitted,
    Applicant,
    EnrollRefused,
    InstallFacts,
    Waiting,
    decide_request,
    enroll_install,
)
from fleet.enroll.credentials import accept_candidate, propose_credential
from fleet.enroll.installs import (
    move_installs,
    quarantine_install,
    release_install,
    revoke_install,
)
from fleet.enroll.tokens import mint_token, revoke_token

__all__ = [
    "Admitted",
    "Applicant",
    "EnrollRefused",
    "InstallFacts",
    "Waiting",
    "accept_candidate",
    "decide_request",
    "enroll_install",
    "mint_token",
    "move_installs",
    "propose_credential",
    "quarantine_install",
    "release_install",
    "revoke_install",
    "revoke_token",
]
