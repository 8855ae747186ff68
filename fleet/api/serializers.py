"""What comes in and goes out, as DRF serializers: they validate and write the OpenAPI schema."""

from __future__ import annotations

from collections.abc import Mapping

from rest_framework import serializers

from agent_client.contract.policy_doc import CHECKIN_STATUSES
from agent_client.contract.tables import COUNT_MAX
from fleet.enroll import InstallFacts

_SHA256 = r"^([0-9a-f]{64})?$"


class AgentFactsSerializer(serializers.Serializer[object]):
    """Versions of the agent side."""

    client_version = serializers.CharField(max_length=60, allow_blank=True, default="")
    host_version = serializers.CharField(max_length=60, allow_blank=True, default="")
    python_version = serializers.CharField(max_length=60, allow_blank=True, default="")


class HostFactsSerializer(serializers.Serializer[object]):
    """The machine it runs on."""

    os_family = serializers.CharField(max_length=40, allow_blank=True, default="")
    os_version = serializers.CharField(max_length=200, allow_blank=True, default="")
    arch = serializers.CharField(max_length=50, allow_blank=True, default="")
    hostname = serializers.CharField(max_length=255, allow_blank=True, default="")


class EnrollRequestSerializer(serializers.Serializer[object]):
    """Body of an enrollment."""

    install_id = serializers.UUIDField()
    machine_id = serializers.RegexField(r"^[0-9a-f]{64}$")
    agent = AgentFactsSerializer(required=False)
    host = HostFactsSerializer(required=False)
    capabilities = serializers.ListField(
        child=serializers.CharField(max_length=64), max_length=64, required=False, default=list
    )
    consent_state = serializers.CharField(max_length=20, allow_blank=True, default="unknown")


class EnrolledSerializer(serializers.Serializer[object]):
    """Answer 201: the credential is shown here and nowhere else."""

    install_id = serializers.UUIDField()
    credential = serializers.CharField()
    fleet_id = serializers.UUIDField()
    group = serializers.CharField(allow_null=True)
    scopes = serializers.ListField(child=serializers.CharField())
    server_time_ns = serializers.IntegerField()
    poll_seconds = serializers.IntegerField()


class WaitingSerializer(serializers.Serializer[object]):
    """Answer 202: a person has to approve this code."""

    status = serializers.CharField()
    user_code = serializers.CharField()
    poll_seconds = serializers.IntegerField()


class CredentialSerializer(serializers.Serializer[object]):
    """A candidate credential."""

    credential = serializers.CharField()


class CheckInSerializer(serializers.Serializer[object]):
    """Body of a check-in (``policy_doc.CheckIn``)."""

    seq = serializers.IntegerField(min_value=0, max_value=COUNT_MAX)
    status = serializers.ChoiceField(choices=CHECKIN_STATUSES)
    reporter = serializers.ChoiceField(choices=("service", "plugin"), default="service")
    reason = serializers.CharField(max_length=300, allow_blank=True, default="")
    assignment_version = serializers.IntegerField(min_value=0, max_value=COUNT_MAX, default=0)
    bundle_sha256 = serializers.RegexField(_SHA256, allow_blank=True, default="")
    desired_sha256 = serializers.RegexField(_SHA256, allow_blank=True, default="")
    written_sha256 = serializers.RegexField(_SHA256, allow_blank=True, default="")
    effective_sha256 = serializers.RegexField(_SHA256, allow_blank=True, default="")
    nonce_seen = serializers.CharField(max_length=64, allow_blank=True, default="")
    drift = serializers.ListField(child=serializers.DictField(), max_length=500, default=list)
    health = serializers.DictField(default=dict)
    versions = serializers.DictField(child=serializers.CharField(max_length=60), default=dict)


class CheckInAckSerializer(serializers.Serializer[object]):
    """Answer to a check-in."""

    ack = serializers.IntegerField()
    server_time_ns = serializers.IntegerField()
    poll_seconds = serializers.IntegerField()
    actions = serializers.ListField(child=serializers.DictField())


class LimitsSerializer(serializers.Serializer[object]):
    """What one push may hold."""

    max_body_bytes = serializers.IntegerField()
    max_decoded_bytes = serializers.IntegerField()
    max_lines = serializers.IntegerField()
    max_line_bytes = serializers.IntegerField()


class DiscoverySerializer(serializers.Serializer[object]):
    """What an agent needs before it enrolls."""

    fleet_id = serializers.UUIDField()
    api_base = serializers.CharField()
    server_time_ns = serializers.IntegerField()
    poll_seconds = serializers.IntegerField()
    min_client = serializers.CharField()
    root_fingerprint = serializers.CharField()
    limits = LimitsSerializer()


class EnvelopeSignatureSerializer(serializers.Serializer[object]):
    """One signature of an envelope."""

    keyid = serializers.CharField()
    sig = serializers.CharField()


class EnvelopeSerializer(serializers.Serializer[object]):
    """A DSSE envelope, version 1."""

    payloadType = serializers.CharField()  # noqa: N815  # DSSE's name
    payload = serializers.CharField()
    signatures = EnvelopeSignatureSerializer(many=True)


class ProblemSerializer(serializers.Serializer[object]):
    """An error (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    instance = serializers.CharField()
    code = serializers.CharField()


def facts_of(data: Mapping[str, object]) -> InstallFacts:
    """The facts of a validated enrollment."""
    agent, host = data.get("agent", {}), data.get("host", {})
    capabilities = data.get("capabilities", [])
    merged = {
        **(agent if isinstance(agent, dict) else {}),
        **(host if isinstance(host, dict) else {}),
    }
    return InstallFacts(
        **{name: str(value) for name, value in merged.items()},
        capabilities=tuple(capabilities) if isinstance(capabilities, list) else (),
        consent_state=str(data.get("consent_state") or "unknown"),
    )
