"""Who sends: the resource of an install, as far as it may be known outside the machine."""

from __future__ import annotations

import platform
import socket

from agent_client import __version__
from agent_client.contract.otlp_genai import AGENT_NAME
from agent_client.contract.otlp_names import Attributes
from agent_client.contract.redact_pseudonym import pseudonym

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def resource_of(install_id: str, key: bytes) -> Attributes:
    """The resource's attributes.

    The machine's name leaves as a pseudonym under the install's ``key``: it names nothing, and a
    list of likely names does not help.
    """
    machine = platform.machine().lower()
    return {
        "service.name": AGENT_NAME,
        "service.instance.id": install_id,
        "host.name": pseudonym(socket.gethostname(), key),
        "host.arch": _ARCHITECTURES.get(machine, machine),
        "os.type": platform.system().lower(),
        "process.runtime.name": platform.python_implementation().lower(),
        "process.runtime.version": platform.python_version(),
        "telemetry.plane": "local",
        "hermes.install.id": install_id,
        "hermes.relay.version": __version__,
    }
