"""The one settings file; every value a deployment decides is read through fleet.env.

Every variable is described in ``deploy/fleet.env.example``. With nothing set it
is the embedded default: SQLite, a broker of plain files and generated secrets,
all under FLEET_HOME.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.utils.csp import CSP

from fleet import env
from fleet.console.theme import UNFOLD as CONSOLE_THEME
from fleet.logs import logging_config

BASE_DIR: Final = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------ the deployment
DEBUG = env.envbool("FLEET_DEBUG", default=False)
FLEET_HOME: Final = Path(env.envstr("FLEET_HOME", ".fleet")).expanduser().absolute()
env.make_private_dir(FLEET_HOME)
FLEET_BIND: Final = env.envstr(
    "FLEET_BIND", "127.0.0.1:8000", pattern=r"(\[[0-9a-fA-F:]+\]|[^\s:]+):\d{1,5}"
)
FLEET_PUBLIC_URL: Final = env.envstr(
    "FLEET_PUBLIC_URL", f"http://{FLEET_BIND}", pattern=r"https?://[^\s/@?#]+"
)
FLEET_POLL_SECONDS: Final = env.envint("FLEET_POLL_SECONDS", 60, minimum=5, maximum=3600)
# How long an unchanged poll is answered from a web process's memory without asking the database.
FLEET_POLL_CACHE_S: Final = env.envint("FLEET_POLL_CACHE_S", 30, minimum=0, maximum=60)
FLEET_MIN_CLIENT: Final = env.envstr(
    "FLEET_MIN_CLIENT", "0.1.0", pattern=r"\d{1,6}\.\d{1,6}\.\d{1,6}"
)
FLEET_RETENTION_DAYS: Final = env.envint("FLEET_RETENTION_DAYS", 90, minimum=1, maximum=3650)
# Sums: of hours for this long, then of days.
FLEET_HOURLY_DAYS: Final = env.envint("FLEET_HOURLY_DAYS", 35, minimum=2, maximum=3650)
FLEET_DAILY_DAYS: Final = env.envint("FLEET_DAILY_DAYS", 400, minimum=2, maximum=36500)
# Content (trajectories): nothing of it is taken in unless this console says so as well.
FLEET_TRAJECTORIES: Final = env.envbool("FLEET_TRAJECTORIES", default=False)
FLEET_CONTENT_RETENTION_DAYS: Final = env.envint(
    "FLEET_CONTENT_RETENTION_DAYS", 14, minimum=1, maximum=3650
)
FLEET_CONTENT_KEEP_PII: Final = env.envbool("FLEET_CONTENT_KEEP_PII", default=False)
# Where exports may go beside the console's own folder: nowhere, unless it is listed here.
FLEET_EXPORT_FOLDERS: Final = env.envlist("FLEET_EXPORT_FOLDERS")
FLEET_S3_HOSTS: Final = env.envlist("FLEET_S3_HOSTS")
FLEET_EXPORT_LINK_MINUTES: Final = env.envint(
    "FLEET_EXPORT_LINK_MINUTES", 60, minimum=1, maximum=10_080
)
# Addresses of reverse proxies in front of us. Only they are believed when they say whom they speak
# for; without one, X-Forwarded-For is any caller's free invention.
FLEET_PROXIES: Final = env.envnetworks("FLEET_PROXIES", names=("unix",))
# Who may read /metrics: whoever has the token, and whoever asks from one of these networks.
FLEET_METRICS_TOKEN: Final = env.envsecret("FLEET_METRICS_TOKEN")
FLEET_METRICS_NETWORKS: Final = env.envnetworks("FLEET_METRICS_NETWORKS", "127.0.0.0/8,::1/128")
# How long a stopping web process still takes new requests while /readyz says no.
FLEET_DRAIN_S: Final = env.envint("FLEET_DRAIN_S", 0, minimum=0, maximum=300)
# Traces of the console itself, by OTLP: the whole address, headers as pairs of a header and the
# variable that has its value, and which share of all traces.
FLEET_TRACES_ENDPOINT: Final = env.envstr(
    "FLEET_TRACES_ENDPOINT", pattern=r"(https?://[^\s/@?#]+(/[^\s@?#]*)?)?"
)
FLEET_TRACES_HEADERS_ENV: Final = env.envheaders(
    "FLEET_TRACES_HEADERS_ENV", prefix="FLEET_OTLP_HDR_"
)
FLEET_TRACES_RATIO: Final = env.envshare("FLEET_TRACES_RATIO", 1.0)

_SECRETS: Final = FLEET_HOME / "secrets"
SECRET_KEY = env.envsecret_made("FLEET_SECRET_KEY", _SECRETS / "secret_key")
SECRET_KEY_FALLBACKS = [key for key in [env.envsecret("FLEET_SECRET_KEY_OLD")] if key]

# Peppers by id. The first one keys new digests; an old one stays until its tokens are rotated.
FLEET_TOKEN_PEPPER_ID: Final = env.envstr(
    "FLEET_TOKEN_PEPPER_ID", "p1", pattern=r"[A-Za-z0-9_-]{1,16}"
)
FLEET_TOKEN_PEPPERS: Final = {
    FLEET_TOKEN_PEPPER_ID: env.envsecret_made("FLEET_TOKEN_PEPPER", _SECRETS / "token_pepper")
}
_OLD_PEPPER: Final = env.envsecret("FLEET_TOKEN_PEPPER_OLD")
if _OLD_PEPPER:
    _old_id, _colon, _old_value = _OLD_PEPPER.partition(":")
    if not _colon or not _old_value or _old_id in FLEET_TOKEN_PEPPERS:
        raise ImproperlyConfigured("FLEET_TOKEN_PEPPER_OLD: write <id>:<value>, with another id")
    FLEET_TOKEN_PEPPERS[_old_id] = _old_value

FLEET_KEYS_DIR: Final = FLEET_HOME / "keys"
FLEET_ROOT_KEY: Final = env.envsecret("FLEET_ROOT_KEY")
FLEET_POLICY_KEY: Final = env.envsecret("FLEET_POLICY_KEY")
for _name, _key in (("FLEET_ROOT_KEY", FLEET_ROOT_KEY), ("FLEET_POLICY_KEY", FLEET_POLICY_KEY)):
    if _key and (len(_key) != 64 or set(_key.lower()) - set("0123456789abcdef")):
        raise ImproperlyConfigured(f"{_name}: an Ed25519 seed is 64 hex digits")

# ------------------------------------------------------------------------------------ what runs
INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "fleet.apps.FleetAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "django_filters",
    "axes",
    "django_structlog",
    "fleet.apps.FleetConfig",
    "telemetry.apps.TelemetryConfig",
]
MIDDLEWARE = [
    "fleet.watch.middleware.WatchMiddleware",
    "fleet.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "fleet.middleware.AdminCspMiddleware",
    "fleet.middleware.NoNulMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "fleet.watch.requests.RequestLogMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "fleet.urls"
WSGI_APPLICATION = "fleet.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "fleet" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.csp",
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
APPEND_SLASH = True

# ------------------------------------------------------------------------------------- database
_DATABASE: Final = env.envdatabase(
    "DATABASE_URL", f"sqlite:///{quote(str(FLEET_HOME))}/fleet.sqlite3"
)
if _DATABASE.engine == "sqlite":
    DATABASES: dict[str, dict[str, object]] = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(_DATABASE.name),
            "OPTIONS": {
                # IMMEDIATE: a transaction that reads and then writes fails at once when another
                # wrote in between, whatever the timeout says.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                # FULL: a receipt says "durable", and WAL with NORMAL forgets on power loss.
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
            },
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _DATABASE.name,
            "USER": _DATABASE.user,
            "PASSWORD": _DATABASE.password,
            "HOST": _DATABASE.host,
            "PORT": _DATABASE.port,
            "OPTIONS": {"application_name": "hermes-fleet", **_DATABASE.options},
            "CONN_MAX_AGE": env.envint("FLEET_DB_CONN_AGE_S", 60, minimum=0, maximum=86_400),
            "CONN_HEALTH_CHECKS": True,
        }
    }
# A replica answers what pages ask of sums and rows; the primary does when it is away.
_REPLICA: Final = env.envsecret("DATABASE_REPLICA_URL")
if _REPLICA:
    _replica = env.envdatabase("DATABASE_REPLICA_URL", "")
    if _DATABASE.engine != "postgresql" or _replica.engine != "postgresql":
        raise ImproperlyConfigured("DATABASE_REPLICA_URL: replicas are PostgreSQL's, both sides")
    DATABASES["replica"] = {
        **DATABASES["default"],
        "NAME": _replica.name,
        "USER": _replica.user,
        "PASSWORD": _replica.password,
        "HOST": _replica.host,
        "PORT": _replica.port,
        "OPTIONS": {
            "application_name": "hermes-fleet",
            "connect_timeout": "2",
            **_replica.options,
        },
        "TEST": {"MIRROR": "default"},
    }
    DATABASE_ROUTERS = ["fleet.lib.replica.ReplicaRouter"]

# -------------------------------------------------------------------------- cache, broker, tasks
REDIS_URL: Final = env.envsecret("REDIS_URL")
if REDIS_URL and urlsplit(REDIS_URL).scheme not in {"redis", "rediss", "unix"}:
    raise ImproperlyConfigured("REDIS_URL: use redis://host:port/number, rediss:// or unix://")
if REDIS_URL:
    CACHES: dict[str, dict[str, object]] = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": REDIS_URL,
            "KEY_PREFIX": "hermes-fleet",
            # It counts requests: a Redis that hangs must not hang them.
            "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1},
        }
    }
else:
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "OPTIONS": {"MAX_ENTRIES": 20_000},
        }
    }

_BROKER_DIR: Final = FLEET_HOME / "broker"
CELERY_BROKER_URL = REDIS_URL or "filesystem://localhost"  # unnamed, kombu warns at each start
CELERY_BROKER_TRANSPORT = None if REDIS_URL else "fleet.lib.files_broker:Transport"
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, object] = (
    {"visibility_timeout": 3600}
    if REDIS_URL
    else {
        "data_folder_in": str(_BROKER_DIR / "queue"),
        "data_folder_out": str(_BROKER_DIR / "queue"),
        "control_folder": str(_BROKER_DIR / "control"),
        "polling_interval": 0.05,
    }
)

# ------------------------------------------------------------------------------------- security
_PUBLIC: Final = urlsplit(FLEET_PUBLIC_URL)
_IS_TLS: Final = _PUBLIC.scheme == "https"
ALLOWED_HOSTS = env.envlist("FLEET_ALLOWED_HOSTS", f"{_PUBLIC.hostname},localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = [FLEET_PUBLIC_URL]
SESSION_COOKIE_NAME = "__Host-fleet" if _IS_TLS else "fleet"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _IS_TLS
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 12 * 3600
SECURE_HSTS_SECONDS = 31_536_000 if _IS_TLS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _IS_TLS
SECURE_SSL_REDIRECT = _IS_TLS
# Only a proxy that we know terminates TLS may say so; it must overwrite the header.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if FLEET_PROXIES else None
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SECURE_CSP = {
    "default-src": [CSP.NONE],
    "script-src": [CSP.SELF, CSP.NONCE],
    "style-src": [CSP.SELF, CSP.NONCE],
    "style-src-attr": [CSP.UNSAFE_INLINE],
    "img-src": [CSP.SELF, "data:"],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    "form-action": [CSP.SELF],
    "base-uri": [CSP.NONE],
    "frame-ancestors": [CSP.NONE],
}
# The admin theme's Alpine evaluates its attributes; nothing else of ours does.
FLEET_ADMIN_CSP: Final = {**SECURE_CSP, "script-src": [CSP.SELF, CSP.NONCE, CSP.UNSAFE_EVAL]}

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
# Per pair, not per name: a stranger who guesses at a name must not lock its owner out.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"], "ip_address"]
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
AXES_CLIENT_IP_CALLABLE = "fleet.lib.addresses.client_address"

UNFOLD = CONSOLE_THEME
# Marks every page: the data is made up, nobody is to act on it.
FLEET_DEMO: Final = env.envbool("FLEET_DEMO", default=False)

# ------------------------------------------------------------------------------------------ API
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    # With no default authentication nobody is staff: a view that forgets to say is closed.
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAdminUser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "fleet.api.negotiation.FirstRenderer",
    "EXCEPTION_HANDLER": "fleet.api.errors.problem_handler",
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": None,
}
# Generous: ten thousand installs behind one NAT address come as one and are no attack, and an
# install that was offline for a week pushes as fast as it can. Numbers are requests a minute.
FLEET_RATE_ADDRESS_PER_MIN: Final = env.envint(
    "FLEET_RATE_ADDRESS_PER_MIN", 600_000, minimum=1, maximum=10_000_000
)
FLEET_RATE_ENROLL_PER_MIN: Final = env.envint(
    "FLEET_RATE_ENROLL_PER_MIN", 6_000, minimum=1, maximum=10_000_000
)
FLEET_RATE_INSTALL_PER_MIN: Final = env.envint(
    "FLEET_RATE_INSTALL_PER_MIN", 6_000, minimum=1, maximum=10_000_000
)
# Of one install, 0 is no limit. A fifth of what two cores take in, and a week without a network
# (a few 100,000 rows) still comes in within the minute.
FLEET_RATE_INSTALL_ROWS_PER_MIN: Final = env.envint(
    "FLEET_RATE_INSTALL_ROWS_PER_MIN", 1_000_000, minimum=0, maximum=1_000_000_000
)
FLEET_RATE_INSTALL_BYTES_PER_MIN: Final = env.envint(
    "FLEET_RATE_INSTALL_BYTES_PER_MIN", 256 * 1024**2, minimum=0, maximum=1024**4
)
# What becomes of a batch when the database is slow: "auto" measures, "open" spools every batch (for
# work on the database), "shut" none.
FLEET_VALVE: Final = env.envstr("FLEET_VALVE", "auto", pattern="auto|open|shut")
FLEET_VALVE_SLOW_MS: Final = env.envint("FLEET_VALVE_SLOW_MS", 5_000, minimum=100, maximum=600_000)
# One thread less than a web process has: whatever the database does, a poll is answered.
FLEET_VALVE_STORES: Final = env.envint("FLEET_VALVE_STORES", 3, minimum=1, maximum=1_000)
FLEET_SPOOL_MAX_BYTES: Final = env.envint(
    "FLEET_SPOOL_MAX_BYTES", 512 * 1024**2, minimum=0, maximum=1024**4
)
FLEET_SPOOL_MAX_ROWS: Final = env.envint(
    "FLEET_SPOOL_MAX_ROWS", 5_000_000, minimum=0, maximum=1_000_000_000
)

# --------------------------------------------------------------------------- what is sent on
FLEET_OTLP_HOSTS: Final = env.envhosts("FLEET_OTLP_HOSTS")
FLEET_OTLP_PLAIN_HTTP: Final = env.envbool("FLEET_OTLP_PLAIN_HTTP", default=False)
FLEET_OTLP_CA_FILE: Final = env.envfile("FLEET_OTLP_CA_FILE")
FLEET_DEAD_LETTER_MAX_BYTES: Final = env.envint(
    "FLEET_DEAD_LETTER_MAX_BYTES", 256 * 1024**2, minimum=0, maximum=1024**4
)
SPECTACULAR_SETTINGS = {
    "TITLE": "Hermes Fleet API",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "fleet.api.openapi.add_problems",
    ],
}

# -------------------------------------------------------------------------- files, language, time
STATIC_URL = "static/"
STATIC_ROOT = env.envstr("FLEET_STATIC_ROOT") or str(FLEET_HOME / "static")
if str(FLEET_HOME / "static") == STATIC_ROOT:
    env.make_private_dir(FLEET_HOME / "static")  # WhiteNoise warns about a folder that is not there
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if not DEBUG
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = True
LANGUAGE_CODE = "en"
LOCALE_PATHS = [BASE_DIR / "fleet" / "locale"]

# ----------------------------------------------------------------------------------------- logs
FLEET_LOG_LEVEL: Final = env.envstr(
    "FLEET_LOG_LEVEL", "INFO", pattern="DEBUG|INFO|WARNING|ERROR|CRITICAL"
)
LOGGING = logging_config(FLEET_LOG_LEVEL)
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False
# RequestIdMiddleware overwrites whatever the caller sent; the header is ours by then.
DJANGO_STRUCTLOG_TRUST_UPSTREAM_REQUEST_ID = True
DJANGO_STRUCTLOG_STATUS_START_LOG_LEVEL = logging.DEBUG
# Thousands of polls a second say nothing each; the web server's access log has them if wanted.
DJANGO_STRUCTLOG_STATUS_2XX_LOG_LEVEL = logging.DEBUG
DJANGO_STRUCTLOG_STATUS_DEFAULT_LOG_LEVEL = logging.DEBUG
DJANGO_STRUCTLOG_STATUS_4XX_LOG_LEVEL = logging.INFO
