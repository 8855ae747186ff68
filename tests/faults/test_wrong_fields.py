"""Every field of every table with a value of every wrong kind: refused by name, the others stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from agent_client.contract import wire
from agent_client.contract.tables import COUNT_MAX, EVENT_TABLES, Column, Table
from telemetry.models import IngestBatch, QuarantinedLine
from tests.faults import raw
from tests.faults.books import read_books
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]

WRONG_FOR_ALL = {
    "an object": "{}",
    "a nested object": '{"a":{"b":[1]}}',
    "a list": "[]",
    "a list of itself": "[[[[]]]]",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "nothing": "",
    "a bare word": "undefined",
}
WRONG_FOR_TEXT = {
    "a number": "1",
    "a fraction": "0.5",
    "a truth": "true",
    "NUL": '"a\\u0000b"',
    "a lone surrogate": '"\\ud83d"',
    "a half of a pair": '"\\ude00x"',
    "one mebibyte": json.dumps("x" * 2**20),
    "one character too many": json.dumps("x" * 16_385),
}
WRONG_FOR_NUMBERS = {
    "a text": '"1"',
    "an empty text": '""',
    "hexadecimal": '"0x10"',
    "negative": "-1",
    "past 64 bits": str(2**64),
    "a thousand digits": "9" * 1000,
    "a hundred thousand digits": "9" * 100_000,
    "an overflow": "1e999",
    "a huge power": "1e400000000",
}


def wrong_values(column: Column) -> dict[str, str]:
    """What a column must not take, as JSON."""
    if column.max_chars:
        return {**WRONG_FOR_ALL, **WRONG_FOR_TEXT}
    wrong = {**WRONG_FOR_ALL, **WRONG_FOR_NUMBERS}
    if column.kind in {"count", "time"}:
        wrong |= {"a truth": "true", "a fraction": "0.5", "a float": "1.0"}
    if column.kind == "count":
        wrong["past its bound"] = str(COUNT_MAX + 1)
    if column.kind == "flag":
        wrong["two"] = "2"
    if column.required:
        wrong["null"] = "null"
    return wrong


def lines_of(table: Table) -> Iterator[tuple[str, str, bytes]]:
    """Column, what is wrong, line: for each pair of the two."""
    columns = (*table.columns, Column("seq", "time", required=True))
    for seq, column in enumerate(columns, start=1):
        record = make.record(table.name, seq, span_id=f"s{seq}", run_id=f"r{seq}")
        for what, value in wrong_values(column).items():
            marked = json.dumps(record | {column.name: "@@"}, separators=(",", ":"))
            yield column.name, what, marked.replace('"@@"', value).encode()


def post(token: str, body: bytes) -> Any:  # noqa: ANN401 -- the test client's own type
    headers = raw.push_headers(token)
    media = headers.pop("Content-Type")
    return Client().post(wire.PATH_TELEMETRY, body, content_type=media, headers=headers)


@pytest.mark.parametrize("table", EVENT_TABLES, ids=lambda table: table.name)
def test_a_wrong_value_of_any_kind_in_any_field_is_refused_by_name(table: Table) -> None:
    token, cases = raw.credential_of(), list(lines_of(table))
    good = make.record(table.name, 9000, span_id="good", run_id="good")
    whole = [make.line(good), *(line for _, _, line in cases)]
    parts = [whole[at : at + 100] for at in range(0, len(whole), 100)]
    refused: list[dict[str, Any]] = []
    for part in parts:
        answer = post(token, make.ndjson(*part))
        assert answer.status_code == 200
        refused += answer.json()["rejected"]
    taken = {
        (name, what)
        for (name, what, _), found in zip(cases, _by_line(parts, refused), strict=True)
        if found is None
    }
    assert taken == set()
    for (name, what, _), found in zip(cases, _by_line(parts, refused), strict=True):
        assert found is not None
        assert found["code"] in wire.LINE_CODES
        if found["code"] not in {"malformed_line", "line_too_long"}:
            assert found["detail"] == name, what
    books = read_books()
    assert (books.row_count, books.rejected) == (1, len(cases))
    assert QuarantinedLine.objects.count() == len(cases)


def _by_line(
    parts: list[list[bytes]], refused: list[dict[str, Any]]
) -> list[dict[str, Any] | None]:
    """The refusal of each line but the first, None where it was taken."""
    left, found = list(refused), []
    for part in parts:
        for number in range(1, len(part) + 1):
            is_here = bool(left) and left[0]["line"] == number
            found.append(left.pop(0) if is_here else None)
    assert not left
    return found[1:]


HOSTILE = {
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "an attribute": '" onmouseover="alert(1)" x="',
    "a template": "{{ 7*7 }}{% debug %}${7*7}",
    "ANSI": "\x1b[2J\x1b]0;owned\x07\x1b[31mred",
    "a formula": '=HYPERLINK("http://x","y")+cmd|\' /C calc\'!A0',
    "right to left": "abc\u202etxt.exe\u2066\u200f",
    "invisible": "a\u200b\ufeff\u2028\u2029b",
    "stacked marks": "Z" + "\u0351" * 190,
    "SQL": "'; DROP TABLE telemetry_run; --",
    "a path": "../../../../etc/passwd\\..\\",
    "a format": "%s%n{0}{self.__class__}",
    "control characters": "".join(map(chr, range(1, 32))),
    "outside the plane": "\U0010ffff\U0001f4a9",
    "a line end": "a\r\nSet-Cookie: x=1\r\n\r\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_name_in_every_text_field_is_kept_as_it_is_or_refused(what: str) -> None:
    token = raw.credential_of()
    records = []
    for seq, table in enumerate(EVENT_TABLES, start=1):
        texts = {column.name: HOSTILE[what] for column in table.columns if column.max_chars}
        records.append(make.record(table.name, seq) | texts)
    answer = post(token, make.ndjson(*records))
    assert answer.status_code == 200
    receipt = answer.json()
    assert sum(receipt["accepted"].values()) + len(receipt["rejected"]) == len(EVENT_TABLES)
    assert IngestBatch.objects.get().inserted_count == read_books().row_count
