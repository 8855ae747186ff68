"""Why a line was refused, in plain words, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True, slots=True)
class Reason:
    """What a code means to an operator; ``mend`` is what to do."""

    text: Promise | str
    mend: Promise | str


_OTHER_VERSION: Final = _(
    "Compare the versions of agent and console. When the agent is newer, upgrade the console and "
    "replay; when something else writes these lines, mend it there."
)

REASONS: Final[Mapping[str, Reason]] = {
    "malformed_line": Reason(
        _("The line is not one JSON object."),
        _("Something between agent and console changed it, or it was not written by the agent."),
    ),
    "line_too_long": Reason(
        _("The line is longer than 1 MiB."), _("No record of ours is; find out who writes it.")
    ),
    "too_deep": Reason(
        _("The line is nested deeper than 64 levels."),
        _("No record of ours is; find out who writes it."),
    ),
    "unknown_kind": Reason(
        _("Its _kind names no table that this console knows on this plane."), _OTHER_VERSION
    ),
    "missing_field": Reason(_("A required column is missing or empty."), _OTHER_VERSION),
    "wrong_type": Reason(_("A column has a value of another type."), _OTHER_VERSION),
    "too_long": Reason(
        _("A text is longer than its column allows."),
        _("Look at the value: names and ids are short, so it is probably something else."),
    ),
    "out_of_range": Reason(
        _("A number is negative, or larger than its column allows."),
        _("Look at the value: it is probably in another unit."),
    ),
    "invalid_text": Reason(
        _("A text holds a NUL, half a surrogate pair, or bytes that are not UTF-8."),
        _("Find out which program names things so; the database cannot keep it."),
    ),
    "invalid_value": Reason(_("A value is not one of its list, or no identifier."), _OTHER_VERSION),
    "unknown_field": Reason(
        _("A summary has a field that its closed type has not; nothing of it is stored."),
        _OTHER_VERSION,
    ),
    "time_in_future": Reason(
        _("Its time was more than 24 hours ahead of this console's clock."),
        _("Set that machine's clock. Once the time has come, the line can be replayed."),
    ),
    "time_too_old": Reason(
        _("Its time was older than what this console keeps."),
        _("Raise FLEET_RETENTION_DAYS and replay, or discard it."),
    ),
}


def reason_for(code: str) -> Reason:
    """The reason of a code; of one that is gone from the contract, too."""
    return REASONS.get(code) or Reason(
        _("An earlier version of this console refused it."), _("Replay it to judge it anew.")
    )
