"""Who sends: the resource of an install, as far as it may be known outside the machine."""

from __future__ import annotations

import platform
import socket

from agent_client import __version__
from agent_client.otlp import ids
from agent_client.otlp.genai import AGENT_NAME
from agent_client.otlp.signals import Attributes

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def resource_of(install_id: str) -> Attributes:
    """The resource's attributes.

    The machine's name leaves as a hash that only this install makes: it names nothing.
    """
    machine = platform.machine().lower()
    return {
        "service.name": AGENT_NAME,
        "service.instance.id": install_id,
        "host.name": ids.hashed(8, "host", install_id, socket.gethostname()).hex(),
        "host.arch": _ARCHITECTURES.get(machine, machine),
        "os.type": platform.system().lower(),
        "process.runtime.name": platform.python_implementation().lower(),
        "process.runtime.version": platform.python_version(),
        "telemetry.plane": "local",
        "hermes.install.id": install_id,
        "hermes.relay.version": __version__,
    }
