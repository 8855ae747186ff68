"""How much room the tables take, by group: events, content, sums, books, relays, the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from django.db import connection

_SUMS: Final = (
    *("runscell", "costscell", "modelcallscell", "toolcallscell", "errorscell", "histogramcell"),
    *("installcell", "installboard", "touchedhour", "fillstate", "firstseen"),
)
_EVENTS: Final = (
    *("run", "modelcall", "toolcall", "errorevent", "span", "gatewayevent", "cronevent"),
    *("skillevent", "memoryevent", "feedbackevent", "aggregaterecord"),
)
GROUPS: Final = (
    ("content", ("telemetry_content",)),
    ("sums", tuple(f"telemetry_{name}" for name in _SUMS)),
    # Day partitions begin with their table's name.
    ("events", tuple(f"telemetry_{name}" for name in _EVENTS)),
    ("exports", ("export_",)),
    ("relays", ("relay_", "telemetry_feedentry")),
    ("books", ("telemetry_",)),
    ("fleet", ("fleet_",)),
)
"""Prefixes of table names, the first that fits wins; all else is "other"."""
OTHER: Final = "other"

_SIZES: Final = """
SELECT relation.relname, pg_total_relation_size(relation.oid)
FROM pg_catalog.pg_class relation
JOIN pg_catalog.pg_namespace place ON place.oid = relation.relnamespace
WHERE relation.relkind IN ('r', 'm') AND place.nspname = ANY (current_schemas(false))
"""


def table_sizes() -> dict[str, int]:
    """Bytes by group, indexes included; on SQLite one number for the whole file, as "all"."""
    if connection.vendor != "postgresql":
        path = Path(str(connection.settings_dict["NAME"]))
        parts = [path, path.with_name(f"{path.name}-wal")]
        return {"all": sum(part.stat().st_size for part in parts if part.exists())}
    sizes: dict[str, int] = {}
    with connection.cursor() as cursor:
        cursor.execute(_SIZES)
        for name, size_bytes in cursor.fetchall():
            group = group_of(name)
            sizes[group] = sizes.get(group, 0) + int(size_bytes)
    return sizes


def group_of(table: str) -> str:
    """The group a table belongs to. Pure."""
    return next(
        (group for group, prefixes in GROUPS if table.startswith(prefixes)),
        OTHER,
    )
