"""What a push says of itself: bounded, and nothing lost is left uncounted."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from django.http.request import HttpHeaders

from telemetry.ingest.gate import is_open
from telemetry.ingest.headers import MAX_LOSS_REASONS, PushHeaders, read_headers


def read(**more: str) -> PushHeaders:
    sent = {
        "CONTENT_TYPE": "application/x-ndjson; charset=utf-8",
        "HTTP_IDEMPOTENCY_KEY": f'"{uuid4()}"',
        "HTTP_TELEMETRY_PLANE": "local",
        "HTTP_TELEMETRY_SCHEMA": "1",
    }
    return read_headers(HttpHeaders(sent | {f"HTTP_{name}": text for name, text in more.items()}))


def test_losses_of_too_many_reasons_are_counted_as_other() -> None:
    losses = {f"r{number}": 2 for number in range(MAX_LOSS_REASONS + 5)}
    found = read(TELEMETRY_LOSSES=json.dumps(losses)).losses
    assert sum(found.values()) == 2 * len(losses)
    assert (len(found), found["other"]) == (MAX_LOSS_REASONS + 1, 10)


def test_what_is_no_count_is_no_loss() -> None:
    assert read(TELEMETRY_LOSSES='{"a":true,"b":-1,"c":"x","d":1.5,"e":4}').losses == {"e": 4}


def test_digests_of_other_algorithms_are_ignored() -> None:
    assert read(CONTENT_DIGEST="sha-512=:AAAA:").digest == b""


AGGREGATE = {"consent_state": "aggregate"}


@pytest.mark.parametrize(
    ("plane", "consent", "bound", "expected"),
    [
        ("local", {}, {}, True),
        ("local", {}, {"telemetry.local": False}, False),
        ("local", {}, {"telemetry.export.console.enabled": False}, False),
        ("local", {}, {"telemetry.export.console.enabled": True}, True),
        ("aggregate", {}, {}, False),
        ("aggregate", AGGREGATE, {}, True),
        ("aggregate", AGGREGATE, {"telemetry.allow_aggregate": False}, False),
        ("aggregate", AGGREGATE, {"telemetry.consent_state": "local"}, False),
        ("aggregate", AGGREGATE | {"allow_aggregate": False}, {}, False),
        ("trajectories", AGGREGATE, {}, False),
    ],
)
def test_a_plane_is_open_only_when_consent_and_policy_agree(
    plane: str, consent: dict[str, object], bound: dict[str, object], expected: bool
) -> None:
    assert is_open(plane, consent=consent, bound=bound) is expected
