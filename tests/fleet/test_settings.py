"""The settings file: loud on bad values, strict in public, and what a response carries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import Client

ROOT = Path(__file__).parent.parent.parent
PUBLIC = {"FLEET_PUBLIC_URL": "https://fleet.example"}


def run(home: Path, program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**kept, "FLEET_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def values(home: Path, *names: str, **environ: str) -> list[object]:
    program = (
        "import json; from fleet import settings as s;"
        f"print(json.dumps([getattr(s, name) for name in {names!r}]))"
    )
    done = run(home, program, **environ)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLEET_DEBUG", "maybe"),
        ("FLEET_PUBLIC_URL", "fleet.example"),
        ("FLEET_POLL_SECONDS", "1"),
        ("FLEET_ROOT_KEY", "xyz"),
        ("REDIS_URL", "memcached://h"),
        ("FLEET_PROXIES", "10.0.0.0/8,proxy"),
        ("FLEET_TOKEN_PEPPER_OLD", "no-colon"),
    ],
)
def test_a_bad_value_stops_the_start_and_names_the_variable(
    tmp_path: Path, name: str, value: str
) -> None:
    done = run(tmp_path, "import fleet.settings", **{name: value})
    assert done.returncode != 0
    assert f"ImproperlyConfigured: {name}" in done.stderr


def test_the_embedded_default_needs_no_variable_but_its_home(tmp_path: Path) -> None:
    broker, proxies, secure = values(
        tmp_path, "CELERY_BROKER_URL", "FLEET_PROXIES", "SESSION_COOKIE_SECURE"
    )
    assert str(broker).startswith("filesystem://")
    assert (proxies, secure) == ([], False)
    assert {entry.name for entry in (tmp_path / "secrets").iterdir()} == {
        "secret_key",
        "token_pepper",
    }


def test_secrets_stay_the_same_from_start_to_start(tmp_path: Path) -> None:
    names = ("SECRET_KEY", "FLEET_TOKEN_PEPPERS")
    assert values(tmp_path, *names) == values(tmp_path, *names)


def test_an_https_address_turns_on_what_protects_it(tmp_path: Path) -> None:
    found = values(
        tmp_path,
        "SESSION_COOKIE_SECURE",
        "CSRF_COOKIE_SECURE",
        "SECURE_SSL_REDIRECT",
        "SECURE_HSTS_SECONDS",
        "SESSION_COOKIE_NAME",
        **PUBLIC,
    )
    assert found == [True, True, True, 31_536_000, "__Host-fleet"]


def test_an_old_pepper_stays_beside_the_new_one(tmp_path: Path) -> None:
    (peppers,) = values(
        tmp_path,
        "FLEET_TOKEN_PEPPERS",
        FLEET_TOKEN_PEPPER="n" * 40,
        FLEET_TOKEN_PEPPER_ID="p2",
        FLEET_TOKEN_PEPPER_OLD="p1:" + "o" * 40,
    )
    assert peppers == {"p2": "n" * 40, "p1": "o" * 40}


@pytest.mark.slow
def test_the_deployment_check_is_clean_in_public(tmp_path: Path) -> None:
    program = (
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'fleet.settings';"
        "from django.core.management import execute_from_command_line as run;"
        "run(['manage.py', 'check', '--deploy', '--fail-level', 'WARNING'])"
    )
    address = "postgres://fleet@127.0.0.1/fleet"
    done = run(tmp_path, program, **PUBLIC, DATABASE_URL=address)
    assert done.returncode == 0, done.stderr


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "has_eval"), [("/login/", True), ("/.well-known/hermes-fleet", False)]
)
def test_only_the_themed_pages_allow_eval(path: str, has_eval: bool) -> None:
    policy = Client().get(path).headers["Content-Security-Policy"]
    assert ("'unsafe-eval'" in policy) is has_eval
    assert "script-src 'self'" in policy
    assert "'unsafe-inline'" not in policy.replace("style-src-attr 'unsafe-inline'", "")
    assert "default-src 'none'" in policy


@pytest.mark.django_db
def test_every_answer_carries_its_own_request_id_and_the_headers() -> None:
    client = Client(headers={"X-Request-Id": "mine"})
    answers = [client.get("/api/v1/nobodys") for _index in range(2)]
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == 2
    assert "mine" not in ids
    assert answers[0].headers["X-Frame-Options"] == "DENY"
    assert answers[0].headers["X-Content-Type-Options"] == "nosniff"
    assert answers[0].headers["Referrer-Policy"] == "same-origin"
