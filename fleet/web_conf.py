"""gunicorn's settings wherever it is started, by ``--config python:fleet.web_conf``.

Read before Django: nothing here imports it. ``FLEET_BIND`` and ``WEB_CONCURRENCY`` come from the
environment; what else a deployment wants stands on the command line, which wins over this file.
A socket that a service manager hands over (LISTEN_FDS) wins over ``FLEET_BIND``.
"""

from __future__ import annotations

import os
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # gunicorn makes its heartbeat file privately

wsgi_app = "fleet.wsgi:application"
bind = os.environ.get("FLEET_BIND", "").strip() or "127.0.0.1:8000"
# A process a core, but never one alone: while it dies and comes back, nobody would answer.
workers = int(os.environ.get("WEB_CONCURRENCY") or min(max(os.cpu_count() or 1, 2), 4))
worker_class = "fleet.web_worker.PatientWorker"
logger_class = "fleet.web_log.JsonLogger"
# FLEET_VALVE_STORES (3) of them may wait for a slow database; the fourth goes on answering polls.
threads = 4
timeout = 60
_drain = os.environ.get("FLEET_DRAIN_S", "").strip()  # a bad one is refused by the settings
# What is under way is given 20 s, counted from where nothing new is accepted. Below what service
# managers wait before they kill (tests/deploy holds units, compose and Kubernetes to it).
graceful_timeout = 20 + (int(_drain) if _drain.isdecimal() else 0)
# An idle connection holds no thread. A proxy has to let go earlier than this (deploy/nginx: 10 s),
# or it sends a request into a connection that is just being closed.
keepalive = 15
# Whom we believe about the caller's scheme is decided by FLEET_PROXIES alone.
forwarded_allow_ips = ""
umask = 0o077
control_socket_disable = True
loglevel = "warning"
# On a disk that is busy the heartbeat would come late and a healthy worker be killed.
worker_tmp_dir = str(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None
