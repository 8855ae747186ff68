"""The documents list every dataset with its columns: the schema is a promise."""

from __future__ import annotations

import os
from pathlib import Path

from telemetry.exports.datasets import DATASETS

DOCS = Path(__file__).resolve().parents[2] / "docs/exports.md"
BEGIN, END = "<!-- datasets:begin -->", "<!-- datasets:end -->"


def table() -> str:
    """Markdown of every dataset: its columns with type and unit."""
    parts = ["| dataset | plane | permission | columns: type, unit |", "|---|---|---|---|"]
    for dataset in DATASETS.values():
        cells = [
            f"`{column.name}` {column.kind}{f' {column.unit}' if column.unit else ''}"
            for column in dataset.columns
        ]
        parts.append(
            f"| `{dataset.name}` | {dataset.plane} | `{dataset.permission}` | {', '.join(cells)} |"
        )
    return "\n".join(parts)


def test_the_datasets_in_the_documents_are_those_there_are() -> None:
    text = DOCS.read_text(encoding="utf-8")
    before, _begin, rest = text.partition(BEGIN)
    found, _end, after = rest.partition(END)
    if os.environ.get("WRITE_DOCS") == "1":
        DOCS.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")
        return
    assert found.strip().splitlines() == table().splitlines()
