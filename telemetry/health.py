"""What the health page says of telemetry: what waits in the spool, and what sums leave out."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from fleet.health import Probe, register_probe
from fleet.lib.clock import now
from fleet.templatetags.fleet_format import byte_size, exact, relative
from telemetry.ingest.spool import SpoolState, spool_state
from telemetry.relay.state import states
from telemetry.rollup.lag import failed_batches, lag_s

LATE_AFTER: Final = timedelta(minutes=2)
"""A drainer that runs begins within five seconds."""


def register_probes() -> None:
    """Register what this module probes; called once by the app."""
    register_probe("spool", spool_probe)
    register_probe("rollups", rollups_probe)
    register_probe("relays", relays_probe)


def spool_probe() -> Probe:
    """Whether the drainer keeps up."""
    title, state = _("Spool"), spool_state()
    detail = spool_in_words(state)
    if state.set_aside_count:
        mend = _("Look at Data → Spool: each batch that was set aside says why.")
        return Probe("spool", title, "warn", detail, mend)
    if state.oldest_at is not None and now() - state.oldest_at > LATE_AFTER:
        mend = _("See that worker and beat run, and what slows the database down.")
        return Probe("spool", title, "warn", detail, mend)
    if settings.FLEET_VALVE == "open":
        mend = _("FLEET_VALVE=open spools every batch; set it to auto when the work is done.")
        return Probe("spool", title, "warn", detail, mend)
    return Probe("spool", title, "ok", detail)


def rollups_probe() -> Probe:
    """Whether the sums on every page hold what was acknowledged."""
    title, failed, lag = _("Rollups"), failed_batches(), timedelta(seconds=lag_s() or 0)
    if failed:
        text = ngettext(
            "%s batch could not be added to the sums",
            "%s batches could not be added to the sums",
            failed,
        )
        mend = _("Its rows are kept: see the log, then run `manage.py telemetry_rollup`.")
        return Probe("rollups", title, "warn", text % exact(failed), mend)
    if lag > LATE_AFTER:
        mend = _("See that worker and beat run, or run `manage.py telemetry_rollup`.")
        return Probe(
            "rollups", title, "warn", _("Sums are %d s behind") % lag.total_seconds(), mend
        )
    return Probe("rollups", title, "ok", _("Sums hold every batch up to the last seconds"))


def relays_probe() -> Probe:
    """Whether every collector gets what it is to get."""
    title, found = _("Relays"), [state for state in states() if state.word != "off"]
    if not found:
        return Probe("relays", title, "ok", _("No collector"))
    bad = [state for state in found if state.is_bad]
    if bad:
        first = bad[0]
        detail = _("%(count)d of %(all)d signals: %(name)s %(signal)s: %(text)s") % {
            "count": len(bad),
            "all": len(found),
            "name": first.name,
            "signal": first.signal,
            "text": first.text,
        }
        return Probe("relays", title, "warn", detail, first.mend)
    lag_s = max(state.lag_s or 0.0 for state in found)
    detail = _("%(count)d signals, at most %(lag)d s behind") % {"count": len(found), "lag": lag_s}
    return Probe("relays", title, "ok", detail)


def spool_in_words(state: SpoolState) -> str:
    """What waits, as a sentence."""
    if not state.batch_count:
        return _("Nothing waits: batches are stored as they come")
    text = ngettext("%(count)s batch waits", "%(count)s batches wait", state.waiting_count)
    parts = [
        text % {"count": exact(state.waiting_count)},
        _("%s rows") % exact(state.row_count),
        byte_size(state.payload_bytes),
    ]
    if state.oldest_at is not None:
        parts.append(_("oldest %s") % relative(state.oldest_at, at=now()))
    if state.set_aside_count:
        parts.append(_("%s set aside") % exact(state.set_aside_count))
    return ", ".join(parts)
