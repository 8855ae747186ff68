"""The one command that brings an agent into the fleet."""

from __future__ import annotations

import shlex

from django.conf import settings


def enroll_url() -> str:
    """The address agents reach this console at."""
    return str(settings.FLEET_PUBLIC_URL)


def enroll_command(enrollment: str) -> str:
    """What an operator pastes on the agent's machine; ``enrollment`` is token.fingerprint."""
    return f"hermes-telemetry enroll {shlex.quote(enroll_url())} {enrollment}"
