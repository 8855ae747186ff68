"""Attributes as values that can be stored: bounded, typed, or refused with a code. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from agent_client.contract import tables
from agent_client.contract.tables import COUNT_MAX, MS_MAX
from telemetry.ingest.otlp_spans import Attribute
from telemetry.ingest.scrub import scrub_and_cut
from telemetry.ingest.validate import LineFault


def name_of(attributes: Mapping[str, Attribute], fact: str) -> str | None:
    """A name, cut at its bound. Errors: LineFault invalid_text."""
    value = attributes.get(fact)
    if value is None:
        return None
    if value.__class__ is str and len(value) <= tables.NAME_MAX_CHARS and "\x00" not in value:
        return value or None
    return text_of(value, fact)


def text_of(value: Attribute | None, name: str) -> str | None:
    """A text, cut at a name's bound; None for none. Errors: LineFault invalid_text."""
    if not isinstance(value, str) or not value:
        return None
    if "\x00" in value:
        raise LineFault("invalid_text", name)
    return scrub_and_cut(value, tables.NAME_MAX_CHARS)


def clean_name(text: str) -> str | None:
    """A span's own name, likewise."""
    return text_of(text, "name")


def id_of(attributes: Mapping[str, Attribute], fact: str) -> str | None:
    """An identifier; one over its bound is left out, for half an id is another one."""
    value = attributes.get(fact)
    if value is None or (isinstance(value, str) and len(value) > tables.ID_MAX_CHARS):
        return None
    return text_of(value, fact)


def count_of(attributes: Mapping[str, Attribute], fact: str) -> int | None:
    """A count. Errors: LineFault wrong_type, out_of_range."""
    value = attributes.get(fact)
    if value is None:
        return None
    if value.__class__ is int and 0 <= value <= COUNT_MAX:
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise LineFault("wrong_type", fact)
    if not 0 <= value <= COUNT_MAX:
        raise LineFault("out_of_range", fact)
    return value


def number_of(attributes: Mapping[str, Attribute], fact: str) -> float | None:
    """A number that is not negative. Errors: LineFault wrong_type, out_of_range."""
    value = attributes.get(fact)
    if value is None:
        return None
    if isinstance(value, bool | str):
        raise LineFault("wrong_type", fact)
    if not 0 <= value <= MS_MAX / 1000:  # NaN is no number within bounds either
        raise LineFault("out_of_range", fact)
    return float(value)


def is_finite(value: Attribute) -> bool:
    """Whether JSON can say it."""
    return not isinstance(value, float) or math.isfinite(value)


def json_object(found: Mapping[str, Attribute]) -> str | None:
    """Attributes as the JSON of a span's row; None for none. Errors: LineFault."""
    if not found:
        return None
    text = msgspec.json.encode(found, order="sorted").decode()
    if len(text) > tables.JSON_MAX_CHARS:
        raise LineFault("too_long", "attrs_json")
    if "\\u0000" in text:
        raise LineFault("invalid_text", "attrs_json")
    return text
