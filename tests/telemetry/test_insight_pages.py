"""The insight pages: what they show, what their address says, what their files hold."""

from __future__ import annotations

import csv
import io
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from fleet.models import Install, InstallGroup
from telemetry.insight.boards import refresh_boards
from telemetry.models import InstallBoard
from telemetry.pages.insights import SECTIONS
from telemetry.rollup.fill import fill_pending
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
PAGES = ("models", "tools", "errors", "versions", "installs")
FORMULA = '=HYPERLINK("http://x","y")'
MARKUP = "<img src=x onerror=alert(1)>"


def client_who(*permissions: str) -> Client:
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def hostile_install() -> Install:
    """An install that did one of each, with names that a page or a spreadsheet might run."""
    group = InstallGroup.objects.create(name=MARKUP)
    install = Install.objects.create(pk=uuid4(), machine_id="m", hostname=MARKUP, group=group)
    make.push(
        make.run(1, run_id="r1", agent_version=FORMULA, entrypoint=MARKUP, end_reason="failed"),
        make.run(2, run_id="r2", estimated_cost_usd=0.5, cost_status="estimated"),
        make.model_call(3, model=FORMULA, provider=MARKUP, estimated_cost_usd=None),
        make.tool_call(4, tool_name=FORMULA, result_class="error"),
        make.error(5, error_class=FORMULA, subsystem=MARKUP),
        install_id=install.pk,
        group_id=group.pk,
    )
    fill_pending()
    return install


def rows_of(client: Client, address: str) -> list[dict[str, str]]:
    answer = client.get(address)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.content.decode())))


def test_every_section_has_a_page() -> None:
    assert [section.view for section in SECTIONS] == [f"insight-{name}" for name in PAGES]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("range_name", ["24h", "30d"])
def test_a_page_shows_hostile_names_as_text(page: str, range_name: str) -> None:
    hostile_install()
    refresh_boards()
    answer = client_who("view_run").get(f"/insights/{page}/?range={range_name}")
    assert answer.status_code == 200
    text = answer.content.decode()
    assert MARKUP not in text
    assert "No run began in this window" not in text


@pytest.mark.parametrize("page", PAGES)
def test_a_page_without_data_says_so(page: str) -> None:
    answer = client_who("view_run").get(f"/insights/{page}/")
    assert answer.status_code == 200
    assert b"in this window" in answer.content


@pytest.mark.parametrize("page", PAGES)
def test_a_page_needs_the_permission_to_see_runs(page: str) -> None:
    assert client_who().get(f"/insights/{page}/").status_code == 403


@pytest.mark.parametrize(
    ("address", "column"),
    [
        ("models/?csv=models", "model"),
        ("tools/?csv=tools", "tool"),
        ("errors/?csv=errors", "error_class"),
        ("versions/?csv=versions", "version"),
    ],
)
def test_a_file_holds_names_that_no_spreadsheet_runs(address: str, column: str) -> None:
    hostile_install()
    rows = rows_of(client_who("view_run"), f"/insights/{address}")
    assert f"'{FORMULA}" in {row[column] for row in rows}


def test_a_cost_that_nobody_knows_is_nothing_in_a_file() -> None:
    hostile_install()
    client = client_who("view_run")
    (row,) = rows_of(client, "/insights/models/?csv=models")
    assert (row["cost_usd"], row["cost_coverage"], row["calls"]) == ("", "0.0", "1")
    costs = rows_of(client, "/insights/models/?csv=costs")
    assert {line["cost_status"]: line["cost_usd"] for line in costs} == {
        "estimated": "0.5",
        "unknown": "",
    }


def test_a_table_that_is_not_there_is_not_found() -> None:
    assert client_who("view_run").get("/insights/tools/?csv=models").status_code == 404


def test_filters_are_in_the_address_and_stay_in_it() -> None:
    hostile_install()
    client = client_who("view_run")
    (row,) = rows_of(client, "/insights/versions/?csv=versions&agent_version=0.19.0")
    assert (row["version"], row["runs"]) == ("0.19.0", "1")
    assert rows_of(client, "/insights/versions/?csv=versions&platform=none-such") == []
    text = client.get("/insights/versions/?agent_version=0.19.0&range=24h").content.decode()
    assert "?range=30d&amp;agent_version=0.19.0" in text


@pytest.mark.parametrize(
    "query", ["group=x", f"group={10**30}", "group=-1", "model=%01", "range=x"]
)
def test_an_odd_address_is_answered(query: str) -> None:
    assert client_who("view_run").get(f"/insights/models/?{query}").status_code == 200


def test_the_install_page_shows_its_own_activity() -> None:
    install = hostile_install()
    client = client_who("view_run", "view_install")
    text = client.get(f"/fleet/install/{install.pk}/change/").content.decode()
    assert "too few days to tell" in text
    assert "Runs and failures" in text


def test_top_installs_follow_the_order_in_the_address() -> None:
    hostile_install()
    client = client_who("view_run")
    assert b"No cost is known" not in client.get("/?top=cost").content
    assert client.get("/?top=failures&range=30d").status_code == 200
    assert client.get("/?top=<b>").status_code == 200


def test_boards_forget_an_erased_install() -> None:
    from telemetry.store.erase import erase_install

    install = hostile_install()
    refresh_boards()
    assert str(install.pk) in str(list(InstallBoard.objects.values_list("tops", flat=True)))
    erase_install(install.pk, actor="operator", reason="asked for")
    assert str(install.pk) not in str(list(InstallBoard.objects.values_list("tops", flat=True)))


def test_the_overview_is_narrowed_by_its_address_and_says_by_what_not() -> None:
    hostile_install()
    client = client_who("view_run")
    text = client.get("/?range=24h&agent_version=0.19.0").content.decode()
    assert "not narrowed by agent version" in text
    assert "?range=7d&amp;agent_version=0.19.0" in text
    assert "not narrowed by" not in client.get("/?range=24h").content.decode()
    assert client.get("/?agent_version=%01&model=" + "x" * 3000).status_code == 200


def test_the_overview_offers_nothing_to_who_may_not_see_runs() -> None:
    hostile_install()
    assert b"All versions" not in client_who("view_install").get("/").content
