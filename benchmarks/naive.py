"""The naive twin of ingest: a DRF serializer a row, and bulk_create; for `benchmarks.ingest`.

What one writes first: each line parsed, validated by a serializer of the contract's columns, made
a model instance, and all of them inserted with duplicates ignored, in one transaction a batch. No
HTTP, no compression, no token, no scrubbing, no ledger: all of that would come on top.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from agent_client.contract.tables import BY_NAME, Column, Table


def load_naively(batches: list[bytes]) -> float:
    """CPU seconds, of this process and its database session, to store NDJSON batches."""
    from django.db import connection, transaction

    from fleet.lib.clock import now, ns_to_datetime
    from telemetry.models.events import MODEL_OF

    serializers = {name: _serializer_of(table) for name, table in BY_NAME.items()}
    install_id = uuid.uuid4()
    connection.ensure_connection()
    session = Path("/proc") / str(connection.connection.info.backend_pid) / "schedstat"
    begun_s = time.process_time() + _spent_s(session)
    for data in batches:
        stamp = {"install_id": install_id, "batch_id": uuid.uuid4(), "received_at": now()}
        rows: dict[str, list[Any]] = {}  # Any: instances of ten models
        for line in data.splitlines():
            record = json.loads(line)
            name = record.pop("_kind")
            serializer = serializers[name](data=record)
            serializer.is_valid(raise_exception=True)
            values = serializer.validated_data
            start_at = ns_to_datetime(values[BY_NAME[name].time])
            rows.setdefault(name, []).append(MODEL_OF[name](start_at=start_at, **stamp, **values))
        with transaction.atomic():
            for name, found in rows.items():
                MODEL_OF[name].objects.bulk_create(found, ignore_conflicts=True)
    return time.process_time() + _spent_s(session) - begun_s


def _spent_s(schedstat: Path) -> float:
    return int(schedstat.read_text().split()[0]) / 1e9


def _serializer_of(table: Table) -> Any:  # noqa: ANN401 -- a serializer class made here
    from rest_framework import serializers

    def field_of(column: Column) -> Any:  # noqa: ANN401 -- one of four kinds of field
        options: dict[str, Any] = {"required": column.required, "allow_null": not column.required}
        if column.max_chars:
            return serializers.CharField(
                max_length=column.max_chars, allow_blank=not column.required, **options
            )
        if column.kind == "flag":
            return serializers.BooleanField(**options)
        if column.kind in {"ms", "usd"}:
            return serializers.FloatField(min_value=0, **options)
        return serializers.IntegerField(min_value=0, **options)

    fields = {column.name: field_of(column) for column in table.columns}
    fields["seq"] = serializers.IntegerField(min_value=0)
    return type(f"{table.event}_serializer", (serializers.Serializer,), fields)
