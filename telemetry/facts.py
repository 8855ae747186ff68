"""What telemetry adds to the operations page: the room its tables take, and days made ahead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta

from django.db import connection
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from fleet.lib.clock import now
from fleet.templatetags.fleet_format import byte_size
from fleet.watch.facts import Fact, Section, Tone, register_section
from telemetry.store.partitions import AHEAD_DAYS, PARENTS, existing_partitions
from telemetry.store.retention import current_plan
from telemetry.store.sizes import table_sizes


def register_facts() -> None:
    """Register both sections; called once by the app."""
    register_section("partitions", partitions_section)
    register_section("sizes", sizes_section)


def sizes_section() -> Section:
    """Bytes by group of tables, the largest first."""
    words = {
        "all": _("The whole file"),
        "events": _("Events"),
        "content": _("Content"),
        "sums": _("Sums"),
        "books": _("Books of ingest"),
        "exports": _("Exports"),
        "relays": _("Relays"),
        "fleet": _("Fleet, policy, audit"),
        "other": _("Sessions, sign-ins and the rest"),
    }
    sizes = sorted(table_sizes().items(), key=lambda each: -each[1])
    whole = sum(size for _name, size in sizes)
    facts = [
        Fact(words.get(name, name), byte_size(size), share=size / whole if whole else 0.0)
        for name, size in sizes
    ]
    note = _("%s with indexes") % byte_size(whole)
    return Section(_("Database size"), note, tuple(facts), "retention")


def partitions_section() -> Section:
    """Whether the days to come have their tables, and which days are held."""
    title = _("Day partitions")
    if connection.vendor != "postgresql":
        return Section(title, "", (Fact(_("Plain tables"), _("SQLite has none")),), "retention")
    today = now().date()
    ahead = days_ahead(Counter(part.day for part in existing_partitions()), today)
    tone: Tone = "good" if ahead >= AHEAD_DAYS - 1 else "warn" if ahead >= 1 else "bad"
    mend = "" if tone == "good" else _("See that worker and beat run: maintain-partitions.")
    held = sorted({part.day for part in current_plan().held})
    text = ngettext("%d day", "%d days", len(held)) % len(held)
    return Section(
        title,
        _("made every hour"),
        (
            Fact(_("Made ahead"), ngettext("%d day", "%d days", ahead) % ahead, tone, mend),
            Fact(
                _("Past retention and held"),
                text,
                "warn" if held else "good",
                _("Their sums are not done: manage.py telemetry_rollup") if held else "",
            ),
        ),
        "retention",
    )


def days_ahead(tables: Mapping[date, int], today: date) -> int:
    """How many days from tomorrow on, without a gap, have every table of theirs. Pure."""
    count = 0
    while tables.get(today + timedelta(days=count + 1), 0) >= len(PARENTS):
        count += 1
    return count
