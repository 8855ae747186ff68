"""Codes, receipts and the discovery document."""

from __future__ import annotations

import dataclasses
import http
import json
import re

import pytest

from agent_client.contract import wire
from agent_client.contract.wire import Discovery, Receipt, Rejection


def receipt() -> Receipt:
    return Receipt(
        batch_id="018f",
        received=5,
        accepted={"tel_runs": 2},
        duplicates=1,
        rejected=(Rejection(3, "too_long", "model"), Rejection(4, "malformed_line", "")),
        rejected_counts={"too_long": 1, "malformed_line": 1},
        policy_etag='"ab"',
    )


@pytest.mark.parametrize("code", wire.PROBLEM_CODES)
def test_every_problem_code_has_an_error_status_and_a_title(code: str) -> None:
    status, title = wire.PROBLEM_CODES[code]
    assert re.fullmatch(r"[a-z_]+", code)
    assert http.HTTPStatus(status).value >= 400
    assert title.strip()
    assert not title.endswith(".")


@pytest.mark.parametrize("code", wire.LINE_CODES)
def test_every_line_code_is_snake_case_and_explained(code: str) -> None:
    assert re.fullmatch(r"[a-z_]+", code)
    assert wire.LINE_CODES[code]


def test_the_codes_of_the_events_check_are_line_codes() -> None:
    codes = {"missing_field", "wrong_type", "too_long", "out_of_range", "unknown_kind"}
    assert codes <= set(wire.LINE_CODES)


def test_a_receipt_survives_the_wire() -> None:
    assert Receipt.from_dict(json.loads(json.dumps(receipt().to_dict()))) == receipt()


def test_a_receipt_says_that_it_is_of_the_spool_and_only_then() -> None:
    spooled = dataclasses.replace(receipt(), spooled=True)
    assert Receipt.from_dict(json.loads(json.dumps(spooled.to_dict()))) == spooled
    assert "spooled" not in receipt().to_dict()


def test_a_receipt_accounts_for_every_line() -> None:
    found = receipt()
    total = sum(found.accepted.values()) + found.duplicates + sum(found.rejected_counts.values())
    assert total == found.received


def test_a_receipt_of_a_later_console_is_understood() -> None:
    data = {"batch_id": "b", "received": 1, "accepted": {"tel_runs": 1}, "of_tomorrow": {}}
    assert Receipt.from_dict(data) == Receipt("b", 1, {"tel_runs": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"accepted": None},
        {"accepted": {"tel_runs": None}},
        {"accepted": {"tel_runs": "many"}},
        {"received": "5"},
        {"duplicates": None},
        {"rejected": 3},
        {"rejected": [3]},
        {"rejected": [{"code": "too_long"}]},
        {"rejected": [{"line": [], "code": "too_long"}]},
        {"rejected_counts": []},
    ],
    ids=str,
)
def test_what_is_no_receipt_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a receipt"):
        Receipt.from_dict({**receipt().to_dict(), **change})


def test_discovery_nests_its_limits() -> None:
    data = Discovery("fleet", "https://console.example", 1, 300, "0.1.0", "ab").to_dict()
    assert data["limits"] == {
        "max_body_bytes": wire.MAX_BODY_BYTES,
        "max_decoded_bytes": wire.MAX_DECODED_BYTES,
        "max_lines": wire.MAX_LINES,
        "max_line_bytes": wire.MAX_LINE_BYTES,
    }
    assert not [name for name in data if name.startswith("max_")]
    assert data["api_base"] == "https://console.example"
