"""POST /api/v1/telemetry: the documented status and code for each thing that can be wrong."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from datetime import timedelta
from importlib.resources import files
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.http import HttpResponse
from django.test import Client

from agent_client.contract import wire
from agent_client.contract.tokens import PREFIX_INSTALL
from fleet.lib import tokens
from fleet.lib.clock import now
from fleet.models import Install, InstallCredential
from telemetry.api import views
from telemetry.models import AggregateRecord, ClosedPlane, IngestBatch, QuarantinedLine, Run
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
SUMMARY: dict[str, Any] = json.loads(
    files("agent_client.contract").joinpath("vectors/aggregate.json").read_text(encoding="utf-8")
)["valid"][0]["record"]


def enrolled(**values: object) -> str:
    """A credential of a new install."""
    install, _ = Install.objects.get_or_create(pk=make.INSTALL, defaults={"machine_id": "m" * 64})
    token, stored = tokens.mint(PREFIX_INSTALL)
    defaults = {"scopes": list(wire.SCOPES)} | values
    InstallCredential.objects.create(
        install=install,
        key_id=token.key_id,
        digest=stored.digest,
        pepper_id=stored.pepper_id,
        **defaults,
    )
    return token.text()


def post(token: str = "", body: bytes | None = None, **headers: Any) -> HttpResponse:  # noqa: ANN401 -- header values
    """A good push, but for what is overridden; an empty header is left out."""
    data = make.ndjson(make.run()) if body is None else body
    sent = {
        "Authorization": f"Bearer {token}" if token else "",
        "Idempotency-Key": str(uuid4()),
        "Telemetry-Plane": "local",
        "Telemetry-Schema": "1",
        "Content-Type": wire.MEDIA_NDJSON,
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    media = sent.pop("Content-Type")
    kept = {name: value for name, value in sent.items() if value}
    answer = Client().post(wire.PATH_TELEMETRY, data, content_type=media, headers=kept)
    assert isinstance(answer, HttpResponse)
    return answer


def problem(answer: HttpResponse) -> tuple[int, str]:
    assert answer["Content-Type"] == wire.MEDIA_PROBLEM
    code = answer.json()["code"]  # type: ignore[attr-defined]  # the test client adds it
    assert wire.PROBLEM_CODES[code][0] == answer.status_code
    return answer.status_code, code


def test_a_good_push_is_answered_with_its_receipt() -> None:
    batch_id = uuid4()
    consent = '{"consent_state":"local","policy_version":7,"foreign":"x"}'
    answer = post(
        enrolled(),
        Idempotency_Key=str(batch_id),
        Telemetry_Consent=consent,
        Telemetry_Losses='{"full":2,"odd":-1}',
        Telemetry_Sequence="1-9",
    )
    assert answer.status_code == 200
    receipt = wire.Receipt.from_dict(answer.json())  # type: ignore[attr-defined]  # as above
    assert (receipt.batch_id, receipt.accepted) == (str(batch_id), {"tel_runs": 1})
    batch = IngestBatch.objects.get()
    assert batch.consent == {"consent_state": "local", "policy_version": 7}
    assert (batch.losses, batch.last_seq) == ({"full": 2}, 9)
    install = Install.objects.get()
    assert (install.last_push_at, install.consent_state) == (batch.received_at, "local")


@pytest.mark.parametrize("said", ["", '{"consent_state":"whatever"}', '{"consent_state":true}'])
def test_a_push_that_names_no_known_consent_leaves_what_is_known(said: str) -> None:
    credential = enrolled()
    Install.objects.update(consent_state="aggregate")
    assert post(credential, Telemetry_Consent=said).status_code == 200
    assert Install.objects.get().consent_state == "aggregate"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_push_is_taken(encoding: str) -> None:
    import zstandard

    data = make.ndjson(make.run())
    body = gzip.compress(data) if encoding == "gzip" else zstandard.compress(data)
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    answer = post(enrolled(), body, Content_Encoding=encoding, Content_Digest=f"sha-256=:{digest}:")
    assert answer.status_code == 200


def test_secrets_in_headers_are_not_stored() -> None:
    secret = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"
    post(
        enrolled(),
        User_Agent=f"agent {secret}",
        Telemetry_Consent=f'{{"consent_state":"{secret}"}}',
        Telemetry_Losses=f'{{"{secret}":1}}',
    )
    batch = IngestBatch.objects.get()
    assert batch.client.startswith("agent [REDACTED:")
    assert (batch.consent, batch.losses) == ({}, {"other": 1})


def test_a_repeat_gets_the_same_bytes_and_changes_nothing() -> None:
    token, body, batch_id = enrolled(), make.ndjson(make.run(), b"{"), str(uuid4())
    first = post(token, body, Idempotency_Key=batch_id)
    again = post(token, body, Idempotency_Key=batch_id)
    assert first.content == again.content
    assert IngestBatch.objects.count() == Run.objects.count() == 1


WRONG: list[tuple[dict[str, str], int, str]] = [
    ({"Content_Type": "application/json"}, 415, "unsupported_media_type"),
    ({"Content_Type": "text/plain"}, 415, "unsupported_media_type"),
    ({"Content_Encoding": "br"}, 415, "unsupported_encoding"),
    ({"Content_Encoding": "gzip, gzip"}, 415, "unsupported_encoding"),
    ({"Idempotency_Key": ""}, 400, "batch_id_missing"),
    ({"Idempotency_Key": "7"}, 400, "batch_id_missing"),
    ({"Telemetry_Plane": ""}, 400, "unknown_plane"),
    ({"Telemetry_Plane": "astral"}, 400, "unknown_plane"),
    ({"Telemetry_Schema": "2"}, 400, "unsupported_schema"),
    ({"Telemetry_Schema": ""}, 400, "unsupported_schema"),
    ({"Content_Digest": "sha-256=:AAAA:"}, 400, "digest_mismatch"),
    ({"Content_Digest": "sha-256=nonsense"}, 400, "digest_mismatch"),
    ({"Content_Digest": f"sha-256=:{'A' * 43}=:"}, 400, "digest_mismatch"),
    ({"Telemetry_Consent": "{"}, 400, "malformed"),
    ({"Telemetry_Losses": "[]"}, 400, "malformed"),
    ({"Telemetry_Losses": '{"x":' + "1" * 5000 + "}"}, 400, "malformed"),
    ({"Telemetry_Sequence": "9-1"}, 400, "malformed"),
    ({"Telemetry_Sequence": "x"}, 400, "malformed"),
    ({"Telemetry_Plane": "aggregate"}, 403, "plane_closed"),
    ({"Telemetry_Plane": "trajectories"}, 403, "plane_closed"),
    ({"Content_Encoding": "gzip"}, 400, "malformed_body"),
    ({"Content_Encoding": "zstd"}, 400, "malformed_body"),
]


@pytest.mark.parametrize(("headers", "status", "code"), WRONG)
def test_a_wrong_push_is_refused_and_leaves_nothing(
    headers: dict[str, Any], status: int, code: str
) -> None:
    assert problem(post(enrolled(), **headers)) == (status, code)
    assert not Run.objects.exists()
    assert not IngestBatch.objects.exists()


def test_a_foreign_method_is_refused_before_the_credential() -> None:
    answer = Client().get(wire.PATH_TELEMETRY)
    assert isinstance(answer, HttpResponse)
    assert problem(answer) == (405, "method_not_allowed")


def test_a_push_without_credential_is_refused() -> None:
    assert problem(post()) == (401, "credential_missing")


def test_an_unknown_credential_is_refused() -> None:
    token, _ = tokens.mint(PREFIX_INSTALL)
    assert problem(post(token.text())) == (401, "credential_unknown")


def test_a_revoked_credential_is_refused() -> None:
    assert problem(post(enrolled(revoked_at=now()))) == (401, "credential_revoked")


def test_an_expired_credential_is_refused() -> None:
    token = enrolled(expires_at=now() - timedelta(seconds=1))
    assert problem(post(token)) == (401, "credential_expired")


def test_a_credential_without_the_scope_is_refused() -> None:
    assert problem(post(enrolled(scopes=[wire.SCOPE_POLICY]))) == (403, "scope")


def test_the_credential_is_checked_before_the_content_type() -> None:
    assert problem(post(Content_Type="text/plain"))[0] == 401


def test_other_content_under_a_used_batch_id_is_a_conflict() -> None:
    token, batch_id = enrolled(), str(uuid4())
    post(token, Idempotency_Key=batch_id)
    answer = post(token, make.ndjson(make.run(9)), Idempotency_Key=batch_id)
    assert problem(answer) == (409, "batch_mismatch")
    assert Run.objects.get().seq == 1


def test_an_oversized_body_is_refused() -> None:
    answer = post(enrolled(), b"x" * (wire.MAX_BODY_BYTES + 1))
    assert problem(answer) == (413, "body_too_large")


def test_a_bomb_is_refused() -> None:
    bomb = gzip.compress(b"\n" * (wire.MAX_DECODED_BYTES + 1), 9)
    answer = post(enrolled(), bomb, Content_Encoding="gzip")
    assert problem(answer) == (413, "decoded_too_large")


def test_too_many_lines_are_refused() -> None:
    answer = post(enrolled(), b"{}\n" * (wire.MAX_LINES + 1))
    assert problem(answer) == (413, "too_many_lines")


def test_a_bad_line_and_a_future_time_do_not_harm_their_batch() -> None:
    future = make.run(2, run_id="late", start_ns=make.recent_ns(-2 * 86_400))
    answer = post(enrolled(), make.ndjson(make.run(), b"nonsense", future))
    assert answer.status_code == 200
    receipt = wire.Receipt.from_dict(answer.json())  # type: ignore[attr-defined]  # as above
    assert receipt.rejected_counts == {"malformed_line": 1, "time_in_future": 1}
    assert QuarantinedLine.objects.count() == 2
    assert Run.objects.get().run_id == "run-1"


def test_what_a_client_accepts_changes_nothing() -> None:
    assert post(enrolled(), Accept="text/html")["Content-Type"] == "application/json"


def test_a_closed_plane_is_counted() -> None:
    token = enrolled()
    for _ in range(2):
        post(token, Telemetry_Plane="aggregate")
    assert ClosedPlane.objects.get(plane="aggregate").refused_count == 2


def test_an_open_aggregate_plane_takes_no_rows_of_the_local_one() -> None:
    answer = post(
        enrolled(),
        Telemetry_Plane="aggregate",
        Telemetry_Consent='{"consent_state":"aggregate"}',
    )
    assert answer.status_code == 200
    assert not Run.objects.exists()


def test_a_summary_comes_in_under_consent_with_a_receipt_and_keeps_it() -> None:
    line = make.line({**SUMMARY, "occurred_ns": make.recent_ns()}) + b"\n"
    sent = {"Telemetry_Plane": "aggregate", "Telemetry_Consent": '{"consent_state":"aggregate"}'}
    answer = post(enrolled(), line, **sent)
    receipt = wire.Receipt.from_dict(answer.json())  # type: ignore[attr-defined]  # as above
    assert receipt.accepted == {"workflow_completed": 1}
    record = AggregateRecord.objects.get()
    batch = IngestBatch.objects.get(batch_id=record.batch_id)
    assert batch.consent == {"consent_state": "aggregate"}


@pytest.mark.parametrize(
    "bound", [{"telemetry.allow_aggregate": False}, {"telemetry.consent_state": "local"}]
)
def test_a_policy_against_it_closes_the_aggregate_plane(
    monkeypatch: pytest.MonkeyPatch, bound: dict[str, object]
) -> None:
    monkeypatch.setattr(views, "mandatory_of", lambda _: bound)
    sent = {"Telemetry_Plane": "aggregate", "Telemetry_Consent": '{"consent_state":"aggregate"}'}
    assert problem(post(enrolled(), make.line(SUMMARY), **sent)) == (403, "plane_closed")
    assert not AggregateRecord.objects.exists()


def test_a_policy_that_forbids_the_push_closes_the_local_plane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "mandatory_of", lambda _: {"telemetry.local": False})
    assert problem(post(enrolled())) == (403, "plane_closed")


def chunked(token: str, **environ: Any) -> HttpResponse:  # noqa: ANN401 -- as WSGI has it
    """A push without Content-Length, as a server hands a chunked one on."""
    client = Client()
    data = make.ndjson(make.run())
    answer = client.generic(
        "POST",
        wire.PATH_TELEMETRY,
        b"",
        content_type=wire.MEDIA_NDJSON,
        headers={
            "Authorization": f"Bearer {token}",
            "Idempotency-Key": str(UUID(int=7)),
            "Telemetry-Plane": "local",
            "Telemetry-Schema": "1",
        },
        CONTENT_LENGTH="",
        CONTENT_TYPE=wire.MEDIA_NDJSON,
        **({"wsgi.input": io.BytesIO(data)} | environ),
    )
    assert isinstance(answer, HttpResponse)
    return answer


def test_a_chunked_push_is_read_to_its_end() -> None:
    assert chunked(enrolled(), **{"wsgi.input_terminated": True}).status_code == 200
    assert Run.objects.count() == 1


def test_a_body_of_unknown_length_is_refused() -> None:
    assert problem(chunked(enrolled())) == (400, "malformed_body")


def test_a_connection_that_breaks_is_a_malformed_body() -> None:
    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError("reset")

    broken = {"wsgi.input": Broken(), "wsgi.input_terminated": True}
    assert problem(chunked(enrolled(), **broken)) == (400, "malformed_body")
