"""What a wrong clock has to do with refused rows, in plain words."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from django.utils.translation import gettext as _

from fleet.templatetags.fleet_format import duration_ms
from telemetry.store.clocks import significant_skews

TIME_CODES: Final = frozenset({"time_in_future", "time_too_old"})


def clock_note(install_id: UUID, rejected: object) -> str:
    """Why rows were refused for their time, and what to do; "" when none was."""
    codes = TIME_CODES & set(rejected) if isinstance(rejected, dict) else frozenset()
    if not codes:
        return ""
    skew_ms = significant_skews([install_id]).get(install_id, 0)
    took = duration_ms(abs(skew_ms))
    if skew_ms > 0:
        return (
            _(
                "This machine's clock is %s ahead of this console's, so rows of it seem to come "
                "from the future and were refused. Set its clock: what it records from then on is "
                "taken in."
            )
            % took
        )
    if skew_ms < 0:
        return (
            _(
                "This machine's clock is %s behind this console's, so rows of it seem older than "
                "what is kept and were refused. Set its clock: what it records from then on is "
                "taken in."
            )
            % took
        )
    if "time_in_future" in codes:
        return _(
            "Rows were refused because they seem to come from the future, though this machine's "
            "clock is right now: it was ahead when they were recorded."
        )
    return _(
        "Rows were refused because they are older than what is kept. The machine was offline that "
        "long, or its clock was behind when they were recorded."
    )
