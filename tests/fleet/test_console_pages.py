"""The console's pages without a browser: who may see them, what they cost, what they record."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.models import ChangeRecord, EnrollmentToken, Install, InstallStatus, PolicyRevision
from tests import builders

pytestmark = pytest.mark.django_db
LISTS = (
    "/fleet/install/",
    "/fleet/installgroup/",
    "/fleet/enrollmenttoken/",
    "/fleet/enrollmentrequest/",
    "/fleet/pin/",
    "/fleet/policyrevision/",
    "/fleet/changerecord/",
    "/fleet/erasure/",
    "/telemetry/ingestbatch/",
    "/telemetry/quarantinedline/",
    "/telemetry/quarantinejob/",
    "/telemetry/spooledbatch/",
    "/telemetry/aggregaterecord/",
)
OWN_PAGES = ("/publish/", "/sync/", "/health/", "/runs/")
MAX_LIST_QUERIES = 14
"""Session, user, permissions, count, rows, filters; the same number for 3 rows and for 30."""


def client_of(*permissions: str, superuser: bool = False) -> Client:
    user = User.objects.create_user("somebody", is_staff=True, is_superuser=superuser)
    names = [name.partition(".")[2] for name in permissions]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client()
    client.force_login(user)
    return client


def query_count(client: Client, path: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert client.get(path).status_code == 200
    return len(queries)


def make_rows(number: int) -> None:
    group = builders.make_group()
    for index in range(number):
        install = builders.make_install(hostname=f"h-{index}", group=group)
        builders.make_pin(f"model.key_{group.pk}_{install.pk.hex[:8]}", index)
        builders.make_token(group=group)


@pytest.mark.parametrize("path", [*LISTS, *OWN_PAGES])
def test_staff_without_permission_is_refused(path: str) -> None:
    assert client_of().get(path).status_code == 403


@pytest.mark.parametrize("path", ["/", *LISTS, *OWN_PAGES])
def test_stranger_is_sent_to_the_login(path: str) -> None:
    builders.make_install()
    answer = Client().get(path)
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/login/")


def test_overview_tells_staff_without_permission_nothing_of_the_fleet() -> None:
    builders.make_install(hostname="secret-host")
    text = client_of().get("/").content.decode()
    assert "secret-host" not in text
    assert "hf-attention" not in text
    assert "hf-card" not in text


@pytest.mark.parametrize("path", LISTS)
def test_list_costs_the_same_queries_for_many_rows(path: str) -> None:
    client = client_of(superuser=True)
    make_rows(3)
    client.get(path)
    few = query_count(client, path)
    make_rows(20)
    assert query_count(client, path) <= few
    assert few <= MAX_LIST_QUERIES


@pytest.mark.parametrize(
    "path", ["/fleet/changerecord/", "/fleet/policyrevision/", "/telemetry/ingestbatch/"]
)
def test_records_of_fact_cannot_be_added(path: str) -> None:
    assert client_of(superuser=True).get(f"{path}add/").status_code == 403


def test_token_page_is_not_stored_and_writes_an_audit_row() -> None:
    client = client_of(superuser=True)
    data = {"reason": "Laptops", "lifetime_hours": "24", "max_uses": "2", "approval": "auto"}
    answer = client.post("/fleet/enrollmenttoken/add/", data)
    token = EnrollmentToken.objects.get()
    assert "no-store" in answer.headers["Cache-Control"]
    assert f"hfe_{token.key_id}_" in answer.content.decode()
    assert ChangeRecord.objects.get().actor == "somebody"


def test_viewer_cannot_make_a_token() -> None:
    client = client_of("fleet.view_enrollmenttoken")
    assert client.post("/fleet/enrollmenttoken/add/", {"reason": "x"}).status_code == 403
    assert not EnrollmentToken.objects.exists()


def revoke(client: Client, install: Install, **data: str) -> int:
    values = {"action": "revoke", "_selected_action": str(install.pk), "index": "0"}
    return client.post("/fleet/install/", values | data).status_code


def test_revoking_asks_first_and_names_the_count() -> None:
    install = builders.make_install()
    client = client_of(superuser=True)
    values = {"action": "revoke", "_selected_action": str(install.pk), "index": "0"}
    answer = client.post("/fleet/install/", values)
    assert "Revoke 1 install?" in answer.content.decode()
    install.refresh_from_db()
    assert install.status == InstallStatus.ACTIVE


def test_confirmed_revocation_is_done_and_audited() -> None:
    install = builders.make_install()
    assert revoke(client_of(superuser=True), install, confirmed="yes", reason="Lost") == 302
    install.refresh_from_db()
    assert install.status == InstallStatus.REVOKED
    assert ChangeRecord.objects.get().reason == "Lost"


def test_revocation_without_a_reason_is_not_done() -> None:
    install = builders.make_install()
    assert revoke(client_of(superuser=True), install, confirmed="yes", reason=" ") == 200
    install.refresh_from_db()
    assert install.status == InstallStatus.ACTIVE


def test_viewer_cannot_revoke() -> None:
    install = builders.make_install()
    revoke(client_of("fleet.view_install"), install, confirmed="yes", reason="Mine now")
    install.refresh_from_db()
    assert install.status == InstallStatus.ACTIVE


def test_publishing_needs_its_own_permission() -> None:
    builders.make_pin()
    client = client_of("fleet.view_policyrevision")
    assert client.post("/publish/", {"reason": "x", "base": "0"}).status_code == 403
    assert not PolicyRevision.objects.exists()


def test_plan_that_is_no_longer_the_newest_is_not_published() -> None:
    builders.make_pin()
    builders.publish()
    builders.make_pin("model.default", "m")
    answer = client_of(superuser=True).post("/publish/", {"reason": "x", "base": "0"})
    assert answer.status_code == 409
    assert PolicyRevision.objects.count() == 1


def test_rolling_back_publishes_the_older_pins_anew() -> None:
    builders.make_pin()
    first = builders.publish()
    builders.make_pin("model.default", "m")
    builders.publish()
    path = f"/fleet/policyrevision/{first.pk}/roll-back/"
    client_of(superuser=True).post(path, {"reason": "Back", "base": "2"})
    newest = PolicyRevision.objects.order_by("-version").first()
    assert newest is not None
    assert (newest.version, newest.rollback_of_id, newest.reason) == (3, first.pk, "Back")


def test_pin_save_is_audited_with_its_values() -> None:
    data = {
        "scope": "fleet",
        "key": "telemetry.allow_aggregate",
        "value_telemetry__allow_aggregate": "false",
        "level": "mandatory",
        "reason": "Council",
        "on_expiry": "hold",
    }
    assert client_of(superuser=True).post("/fleet/pin/add/", data).status_code == 302
    record = ChangeRecord.objects.get()
    assert (record.action, record.reason) == ("create", "Council")
    assert '"value":false' in record.post_json


def test_health_page_shows_no_secret() -> None:
    text = client_of(superuser=True).get("/health/").content.decode()
    assert "FLEET_SECRET_KEY" in text
    assert settings.SECRET_KEY not in text
    assert not any(pepper in text for pepper in settings.FLEET_TOKEN_PEPPERS.values())


def test_admin_pages_alone_allow_eval_and_none_allows_inline_scripts() -> None:
    policy = client_of(superuser=True).get("/").headers["Content-Security-Policy"]
    script = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "'unsafe-inline'" not in script
    assert "'nonce-" in script
