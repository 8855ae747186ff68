"""A JSON parser for small bodies from strangers: bounded, strict, never a 500."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, Final

from rest_framework.parsers import BaseParser

from fleet.api.errors import ApiProblem

MAX_JSON_BYTES: Final = 1024 * 1024
"""A check-in with 200 drift items of 500 characters fits many times over."""
MAX_JSON_DEPTH: Final = 32
_INT64_MAX: Final = 2**63 - 1


class BoundedJsonParser(BaseParser):
    """``application/json``, one object, at most 1 MiB.

    Errors: ApiProblem body_too_large, unsupported_encoding or malformed_body.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,  # Any: DRF's signature
    ) -> dict[str, object]:
        """The object of a body."""
        request = (parser_context or {}).get("request")
        encoding = request.headers.get("Content-Encoding", "identity") if request else "identity"
        if encoding.lower() != "identity":
            raise ApiProblem("unsupported_encoding")
        raw = stream.read(MAX_JSON_BYTES + 1)
        if len(raw) > MAX_JSON_BYTES:
            raise ApiProblem("body_too_large")
        return parse_object(raw)


def parse_object(raw: bytes) -> dict[str, object]:
    """A JSON object, strictly read.

    No NaN, no duplicate key, no NUL, no lone surrogate, no integer beyond 64 bits, at most
    32 levels.
    Errors: ApiProblem malformed_body.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_no_duplicates
        )
        _check(value, 0)
    except (ValueError, RecursionError) as error:
        raise ApiProblem("malformed_body") from error
    if not isinstance(value, dict):
        raise ApiProblem("malformed_body", "The body is not a JSON object.")
    return value


def _refuse(_text: str) -> object:
    raise ValueError("not JSON")


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _check(value: object, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise ValueError("too deep")
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate raises UnicodeEncodeError, a ValueError
        if "\x00" in value:
            raise ValueError("NUL")
    elif isinstance(value, int):
        if abs(value) > _INT64_MAX:
            raise ValueError("beyond 64 bits")
    elif isinstance(value, float):
        if value in {float("inf"), float("-inf")}:
            raise ValueError("beyond a double")
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)
