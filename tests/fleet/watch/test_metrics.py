"""Metrics: who may read them, what they count, and that no stranger makes a label."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from django.db import DatabaseError
from django.test import Client
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from fleet.watch import answers, gauges, shared
from fleet.watch.figures import COUNTED, REGISTRY
from fleet.watch.gauges import Family, Sample, Source, read_all, sources
from fleet.watch.state import StateCollector, grouped
from tests.builders import agent_client_of, enroll_one, make_install, make_pin, publish

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "metrics-token-0123456789"
POLL = "/api/v1/policy/assignment"


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets what another one's collector keeps, nor the files of a web server."""
    monkeypatch.setattr(answers, "_STATE", StateCollector())
    monkeypatch.delenv(shared.VARIABLE, raising=False)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def grown() -> Callable[..., float]:
    """How much a counter has grown since the test first asked."""
    first: dict[str, float] = {}

    def since(name: str, **labels: str) -> float:
        key = f"{name}{sorted(labels.items())}"
        return value(name, **labels) - first.setdefault(key, value(name, **labels))

    return since


# ---------------------------------------------------------------------------------- who may


def reads(client: Client, **headers: str) -> bool:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code in {200, 404}
    return answer.status_code == 200


def test_this_machine_may_read_and_nobody_else() -> None:
    assert reads(Client(REMOTE_ADDR="127.0.0.1"))
    assert reads(Client(REMOTE_ADDR="::1"))
    assert not reads(Client(REMOTE_ADDR="10.0.0.7"))
    assert not reads(Client(REMOTE_ADDR=""))


def test_a_network_that_was_named_may_read(settings: Settings) -> None:
    settings.FLEET_METRICS_NETWORKS = ["10.0.0.0/24"]
    assert reads(Client(REMOTE_ADDR="10.0.0.7"))
    assert not reads(Client(REMOTE_ADDR="127.0.0.1"))


def test_the_token_opens_from_anywhere_and_no_other_does(settings: Settings) -> None:
    settings.FLEET_METRICS_TOKEN = TOKEN
    client = Client(REMOTE_ADDR="203.0.113.9")
    assert reads(client, Authorization=f"Bearer {TOKEN}")
    assert not reads(client, Authorization=f"Bearer {TOKEN}x")
    assert not reads(client, Authorization="Bearer ")
    assert not reads(client, Authorization=f"Basic {TOKEN}")


def test_an_empty_token_opens_nothing(settings: Settings) -> None:
    settings.FLEET_METRICS_TOKEN = ""
    assert not reads(Client(REMOTE_ADDR="203.0.113.9"), Authorization="Bearer ")


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip"])
def test_a_proxy_on_this_machine_does_not_open_it_to_the_world(header: str) -> None:
    assert not reads(Client(REMOTE_ADDR="127.0.0.1"), **{header: "127.0.0.1"})


def test_behind_a_known_proxy_the_caller_decides(settings: Settings) -> None:
    settings.FLEET_PROXIES = ["127.0.0.1"]
    settings.FLEET_METRICS_NETWORKS = ["10.0.0.0/24"]
    client = Client(REMOTE_ADDR="127.0.0.1")
    assert reads(client, **{"X-Forwarded-For": "10.0.0.7"})
    assert not reads(client, **{"X-Forwarded-For": "203.0.113.9"})
    assert not reads(client, **{"X-Forwarded-For": "10.0.0.7, 203.0.113.9"})


@pytest.mark.parametrize("header", ["X-Real-Ip", "X-Forwarded-Proto", "Via", "Forwarded"])
def test_a_known_proxy_that_does_not_say_for_whom_opens_nothing(
    header: str, settings: Settings
) -> None:
    settings.FLEET_PROXIES = ["127.0.0.1"]
    client = Client(REMOTE_ADDR="127.0.0.1")
    assert not reads(client, **{header: "203.0.113.9"})
    assert not reads(client, **{header: "203.0.113.9", "X-Forwarded-For": " "})
    assert reads(client)


# ---------------------------------------------------------------------------------- what


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
@pytest.mark.django_db(transaction=True)
@pytest.mark.both_engines
def test_a_scrape_is_text_a_parser_takes(accept: str) -> None:
    from prometheus_client.openmetrics import parser

    text = Client().get("/metrics", headers={"Accept": accept}).content.decode()
    parse = parser.text_string_to_metric_families if accept else text_string_to_metric_families
    found = {family.name for family in parse(text)}
    assert {"fleet_build_info", "fleet_spool_bytes", "fleet_database_bytes"} <= found
    assert 'fleet_watch_source_up{source="relay"} 1.0' in text


@pytest.mark.django_db
def test_a_request_is_counted_by_its_route(grown: Callable[..., float]) -> None:
    _install, credential = enroll_one()
    labels = {"route": POLL, "method": "GET", "status": "204"}
    assert grown("fleet_http_requests_total", **labels) == 0
    assert grown("fleet_policy_polls_total", status="204", by="database") == 0
    agent_client_of(credential).get(POLL)
    assert grown("fleet_http_requests_total", **labels) == 1
    assert grown("fleet_policy_polls_total", status="204", by="database") == 1
    assert value("fleet_http_request_seconds_count", route=POLL, method="GET") >= 1


@pytest.mark.django_db
def test_no_caller_makes_a_label() -> None:
    client = Client()
    hostile = 'zz"}\n9' + "%0a%22" * 5
    client.get(f"/api/v1/{hostile}")
    client.get(f"/api/v1/policy/bundles/{'ab' * 32}")
    client.get(f"/static/{hostile}")
    client.get(f"/{hostile}/")
    client.generic("BREW", "/api/v1/enroll")
    text = client.get("/metrics").content.decode()
    assert "BREW" not in text
    assert "abab" not in text
    assert "zz" not in text
    assert 'method="other"' in text


@pytest.mark.django_db
@pytest.mark.both_engines
def test_a_refusal_for_its_rate_is_counted(settings: Settings, grown: Callable[..., float]) -> None:
    settings.FLEET_RATE_ADDRESS_PER_MIN = 1
    assert grown("fleet_rate_limited_total", route=POLL) == 0
    client = Client(REMOTE_ADDR="198.51.100.77")
    statuses = [client.get(POLL).status_code for _index in range(3)]
    assert grown("fleet_rate_limited_total", route=POLL) == statuses.count(429) > 0


@pytest.mark.django_db
@pytest.mark.both_engines
def test_the_gauges_say_what_the_database_holds() -> None:
    make_install()
    make_pin()
    publish()
    reading = read_all()
    samples = {(each.name, each.labels): each.value for each in reading.samples}
    assert samples[("fleet_installs", ("never_seen",))] == 1
    assert samples[("fleet_export_jobs", ("failed",))] == 0
    assert all(worked for _name, worked in reading.has_worked)
    assert sum(v for (name, _l), v in samples.items() if name == "fleet_database_bytes") > 0


def test_a_source_that_fails_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Sample]:
        raise DatabaseError("no")

    well = Source("well", (Family("fleet_x", "x"),), lambda: [Sample("fleet_x", 1)])
    broken = Source("broken", (Family("fleet_y", "y"),), fail)
    monkeypatch.setattr(gauges, "_sources", {"broken": broken, "well": well})
    reading = read_all()
    assert reading.samples == (Sample("fleet_x", 1),)
    assert dict(reading.has_worked) == {"broken": False, "well": True}


def test_without_a_database_a_scrape_still_answers() -> None:
    text = Client().get("/metrics").content.decode()  # this test may not touch the database
    assert 'fleet_watch_source_up{source="fleet"} 0.0' in text
    assert "fleet_build_info{" in text


def test_hostile_names_of_destinations_stay_one_line() -> None:
    family = Family("fleet_relay_lag_seconds", "x", ("destination", "signal"))
    (metric,) = grouped([family], [Sample(family.name, 1, ('a"\n} 9\\', "traces"))])
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class One(Collector):
        def collect(self) -> Iterator[Metric]:
            yield metric

    registry = CollectorRegistry()
    registry.register(One())
    lines = generate_latest(registry).decode().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) == 1


# ---------------------------------------------------------------------- several processes

COUNT = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from fleet.watch.figures import count_request
for _ in range(int(sys.argv[2])):
    count_request(route="/x", method="GET", status=200, took_s=0.02)
"""


def counted_in(folder: Path, count: int) -> None:
    subprocess.run([sys.executable, "-c", COUNT, str(folder), str(count)], check=True, cwd=ROOT)


def shared_value(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> float:
    monkeypatch.setenv(shared.VARIABLE, str(folder))
    text = Client().get("/metrics").content.decode()
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.rpartition(" ")[2])


def test_counts_of_processes_that_ended_stay_and_their_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = 'fleet_http_requests_total{method="GET",route="/x",status="200"}'
    bucket = 'fleet_http_request_seconds_bucket{le="0.025",method="GET",route="/x"}'
    for count, total in ((3, 3), (4, 7), (5, 12)):
        counted_in(tmp_path, count)
        assert shared_value(monkeypatch, tmp_path, name) == total
        assert shared_value(monkeypatch, tmp_path, bucket) == total
        assert {path.name for path in tmp_path.glob("*.db")} == {
            "counter_dead.db",
            "histogram_dead.db",
        }


def test_a_former_web_servers_folder_is_cleared_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(shared.VARIABLE, "")
    former = tmp_path / "metrics" / "web-999999999-1"
    # The number is used again by somebody else: another start tells the two apart.
    other = tmp_path / "metrics" / f"web-{os.getpid()}-1"
    for folder in (former, other):
        folder.mkdir(parents=True)
        (folder / "counter_1.db").write_bytes(b"")
    mine = shared.share(tmp_path)
    assert list((tmp_path / "metrics").iterdir()) == [mine]
    assert os.environ[shared.VARIABLE] == str(mine)


# ------------------------------------------------------------------------- the documents


def table_in_docs() -> str:
    text = (ROOT / "docs/metrics.md").read_text()
    return text.partition("<!-- metrics:begin -->")[2].partition("<!-- metrics:end -->")[0]


def table() -> str:
    rows = []
    for metric in COUNTED:
        (family,) = metric.describe()
        labels = ", ".join(f"`{name}`" for name in metric._labelnames) or "–"
        suffix = "_total" if family.type == "counter" else ""
        rows.append(
            f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |"
        )
    families = [*gauges.OWN_FAMILIES, *(one for source in sources() for one in source.families)]
    for one in families:
        labels = ", ".join(f"`{name}`" for name in one.labels) or "–"
        suffix = "_total" if one.kind == "counter" else ""
        rows.append(f"| `{one.name}{suffix}` | {one.kind} | {labels} | {one.text} |")
    return "\n".join(["| metric | kind | labels | what it says |", "|---|---|---|---|", *rows])


def test_the_table_of_metrics_is_what_the_code_says() -> None:
    path = ROOT / "docs/metrics.md"
    if os.environ.get("WRITE_DOCS") == "1":
        before, begin, rest = path.read_text().partition("<!-- metrics:begin -->")
        _old, end, after = rest.partition("<!-- metrics:end -->")
        path.write_text(f"{before}{begin}\n\n{table()}\n\n{end}{after}")
        return
    assert table_in_docs().strip() == table()


def test_the_alerts_are_rules_over_metrics_that_there_are() -> None:
    document = yaml.safe_load((ROOT / "deploy/prometheus-alerts.yml").read_text())
    known = set(re.findall(r"`(fleet_\w+)`", table_in_docs()))
    known |= {f"{name}_bucket" for name in known}
    (group,) = document["groups"]
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) >= 10
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        named = set(re.findall(r"\bfleet_\w+", rule["expr"]))
        assert named <= known, rule["alert"]
        assert named or rule["expr"].startswith("up{")
        for opened, closed in ("()", "{}", "[]"):
            assert rule["expr"].count(opened) == rule["expr"].count(closed)
