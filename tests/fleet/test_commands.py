"""Management commands of the fleet."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from agent_client.contract.tokens import parse_enrollment
from fleet.models import Approval, EnrollmentToken
from fleet.policy.signing import root_fingerprint
from tests.append_only import drop_triggers, make_triggers
from tests.builders import make_token

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def run(*args: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command(*args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_enrollment_token_prints_exactly_the_string() -> None:
    out, err = run(
        "enrollment_token", "--group", "north", "--max-uses", "3", "--cidr", "10.1.0.0/8"
    )
    parsed = parse_enrollment(out)
    assert parsed is not None
    assert out.count("\n") == 1
    assert parsed[1] == root_fingerprint()
    assert "hermes-telemetry enroll" in err
    row = EnrollmentToken.objects.get()
    assert row.group is not None
    assert (row.group.name, row.max_uses, row.cidr) == ("north", 3, "10.0.0.0/8")
    assert row.expires_at is not None


def test_a_token_may_last_for_ever_and_ask_a_person() -> None:
    run("enrollment_token", "--expires-days", "0", "--manual", "--reason", "lab")
    row = EnrollmentToken.objects.get()
    assert (row.expires_at, row.approval, row.reason) == (None, Approval.MANUAL, "lab")


@pytest.mark.parametrize(
    "args", [["--cidr", "nonsense"], ["--max-uses", "0"], ["--expires-days", "-1"]]
)
def test_a_bad_option_makes_no_token(args: list[str]) -> None:
    with pytest.raises(CommandError):
        run("enrollment_token", *args)
    assert not EnrollmentToken.objects.exists()


def test_audit_verify_says_the_trail_is_whole() -> None:
    make_token()
    out, _err = run("audit_verify")
    assert "1 rows, whole" in out


@pytest.mark.django_db(transaction=True)
def test_audit_verify_fails_and_names_the_row() -> None:
    make_token()
    drop_triggers()
    try:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE fleet_changerecord SET reason = 'x'")
        with pytest.raises(CommandError, match="altered"):
            run("audit_verify")
    finally:
        make_triggers()
