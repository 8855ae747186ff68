"""What a configuration allows to be recorded and to leave; decided, never read from disk here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent_client.config import ClientConfig, install_id_of, lookup, usable_value
from agent_client.contract.policy_keys import KEYS


@dataclass(frozen=True, slots=True)
class Posture:
    """The planes of one configuration, as it stands now."""

    local_enabled: bool
    aggregate_enabled: bool
    consent_state: str
    install_id: str
    allow_aggregate: bool
    trajectories_enabled: bool = False
    content_redaction: str = "none"
    console_enabled: bool = False
    console_endpoint: str = ""
    console_content: bool = False

    def may_upload_aggregate(self) -> bool:
        """The gate of the aggregate plane: the operator allows it and the user opted in."""
        return self.allow_aggregate and self.consent_state == "aggregate"

    def may_upload_trajectories(self) -> bool:
        """The gate of content on the way to the console: two keys, each off by default.

        ``trajectories_enabled`` alone unlocks the export to the owner's own destinations only.
        """
        return self.trajectories_enabled and self.console_content


def resolve(config: ClientConfig | Mapping[str, object]) -> Posture:
    """The posture of a configuration (ours, or the host's plain dictionary). No I/O, never raises.

    A telemetry section that is missing or no map counts as empty: the local plane is on.
    """
    values: object = config.values if isinstance(config, ClientConfig) else config
    section = values.get("telemetry") if isinstance(values, Mapping) else None
    tree = section if isinstance(section, Mapping) else {}

    def value(path: str) -> object:
        key = f"telemetry.{path}"
        return usable_value(key, lookup(tree, path, KEYS[key].default))

    consent, allow = str(value("consent_state")), value("allow_aggregate") is True
    install_id = (
        install_id_of(config) if isinstance(config, ClientConfig) else str(value("install_id"))
    )
    return Posture(
        local_enabled=value("local") is True,
        aggregate_enabled=allow and consent == "aggregate",
        consent_state=consent,
        install_id=install_id,
        allow_aggregate=allow,
        trajectories_enabled=value("trajectories.enabled") is True,
        content_redaction=str(value("content_redaction")),
        console_enabled=value("export.console.enabled") is True,
        console_content=value("export.console.content") is True,
        console_endpoint=str(value("export.console.endpoint") or ""),
    )


def ensure_install_id(config: ClientConfig | Mapping[str, object]) -> str:
    """The install id in force, or a new random one. Keeps nothing: the caller does."""
    import uuid

    return resolve(config).install_id or str(uuid.uuid4())
