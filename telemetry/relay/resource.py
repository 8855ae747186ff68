"""Who a span comes from: the resource of an install and agent version, and the scope of the relay.

Specification: A5. A host's name goes out where its collector is trusted with names, else as a
pseudonym under the console's key: it tells two machines apart and names neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final
from uuid import UUID

from django.utils.crypto import salted_hmac

from agent_client.contract.otlp_genai import AGENT_NAME, SCHEMA_1_41
from agent_client.contract.otlp_names import SCOPE, Attributes
from agent_client.contract.redact_pseudonym import pseudonym
from fleet.models import Fleet, Install
from telemetry.ingest.scrub import scrub_text
from telemetry.relay.wire import EVENT_ATTRIBUTE, RESOURCE_ATTRIBUTE, attributes, delimited

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@cache
def relay_version() -> str:
    """The console's own version; "0" where it runs from a source tree that is not installed."""
    try:
        return version("hermes-fleet")
    except PackageNotFoundError:
        return "0"


@dataclass(frozen=True, slots=True)
class InstallDetails:
    """What the console knows of an install; all empty for one that was erased."""

    hostname: str = ""
    os_family: str = ""
    os_version: str = ""
    arch: str = ""
    host_version: str = ""
    python_version: str = ""
    group: str = ""
    policy_version: int | None = None


def read_installs(install_ids: Iterable[UUID]) -> dict[str, InstallDetails]:
    """What is known of some installs, by their ids as text; 1 query."""
    found = Install.objects.filter(pk__in=set(install_ids)).values_list(
        *("id", "hostname", "os_family", "os_version", "arch", "host_version", "python_version"),
        *("group__name", "policy__version"),
    )
    return {
        str(row[0]): InstallDetails(
            row[1], row[2], row[3], row[4], row[5], row[6], row[7] or "", row[8]
        )
        for row in found
    }


def fleet_id() -> str:
    """The fleet that all of this belongs to."""
    return str(Fleet.current().fleet_id)


def host_name(hostname: str, *, shows_hosts: bool) -> str:
    """A host's name as it may go out."""
    if shows_hosts or not hostname:
        return hostname
    return pseudonym(hostname, salted_hmac("hermes.relay.host", "", algorithm="sha256").digest())


def resource_of(
    install_id: str,
    known: InstallDetails,
    *,
    namespace: str,
    agent_version: str = "",
    profile_id: str = "",
    shows_hosts: bool = False,
) -> Attributes:
    """The resource's attributes; what is not known is left out."""
    arch = known.arch.lower()
    found = {
        "service.name": AGENT_NAME,
        "service.namespace": namespace,
        "service.instance.id": install_id,
        "service.version": agent_version or known.host_version,
        "host.name": host_name(known.hostname, shows_hosts=shows_hosts),
        "host.arch": _ARCHITECTURES.get(arch, arch),
        "os.type": known.os_family.lower(),
        "os.version": known.os_version,
        "process.runtime.name": "cpython" if known.python_version else "",
        "process.runtime.version": known.python_version,
        "telemetry.plane": "local",
        "hermes.install.id": install_id,
        "hermes.profile.id": profile_id,
        "hermes.group": known.group,
        "hermes.relay.version": relay_version(),
    }
    said: Attributes = {key: scrub_text(value) for key, value in found.items() if value}
    if known.policy_version is not None:
        said["hermes.policy.version"] = known.policy_version
    return said


def schema_url(profile: str) -> str:
    """The schema that names and units follow; what came after 1.41 has none yet."""
    return SCHEMA_1_41 if profile == "1.41" else ""


def resource_field(said: Attributes) -> bytes:
    """``ResourceSpans.resource``, and that of logs and metrics: field 1 of each."""
    return delimited(b"\x0a", attributes(RESOURCE_ATTRIBUTE, said))


@cache
def scope_field(profile: str) -> bytes:
    """``ScopeSpans.scope``, and that of logs and metrics: field 1 of each."""
    said: Attributes = {"hermes.semconv.profile": profile}
    return delimited(
        b"\x0a",
        delimited(b"\x0a", SCOPE.encode())
        + delimited(b"\x12", relay_version().encode())
        + attributes(EVENT_ATTRIBUTE, said),
    )


def envelope(resource: bytes, profile: str, records: list[bytes]) -> bytes:
    """Records of one resource, each a field with its tag, as a field of the request: field 1."""
    url = schema_url(profile)
    schema = delimited(b"\x1a", url.encode()) if url else b""
    scope = scope_field(profile) + b"".join(records) + schema
    return delimited(b"\x0a", resource + delimited(b"\x12", scope) + schema)
