"""What the API of exports takes and gives."""

from __future__ import annotations

from rest_framework import serializers

from telemetry.models import ExportFormat, ExportJob


class ExportFilterSerializer(serializers.Serializer[dict[str, object]]):
    """Which rows; what is left out narrows nothing."""

    groups = serializers.ListField(child=serializers.CharField(max_length=100), required=False)
    installs = serializers.ListField(child=serializers.UUIDField(), required=False)
    models = serializers.ListField(child=serializers.CharField(max_length=200), required=False)
    tools = serializers.ListField(child=serializers.CharField(max_length=200), required=False)
    results = serializers.ListField(child=serializers.CharField(max_length=40), required=False)


class _Named(serializers.Serializer[dict[str, object]]):
    """Fields whose names Python keeps for itself."""

    def get_fields(self) -> dict[str, serializers.Field]:  # type: ignore[type-arg]  # DRF's own
        """``from`` beside the others."""
        fields = super().get_fields()
        fields["from"] = serializers.DateTimeField()
        return fields


class ExportOrderSerializer(_Named):
    """An order."""

    datasets = serializers.ListField(child=serializers.CharField(max_length=40), max_length=50)
    format = serializers.ChoiceField(choices=ExportFormat.choices)
    is_gzipped = serializers.BooleanField(default=False)
    to = serializers.DateTimeField()
    filter = ExportFilterSerializer(required=False)
    destination = serializers.CharField(max_length=80, required=False, allow_blank=True)
    keep_days = serializers.IntegerField(min_value=1, max_value=3650, default=7)
    reason = serializers.CharField(max_length=300, required=False, allow_blank=True)


class ExportSerializer(_Named):
    """An export and how far it is."""

    id = serializers.IntegerField()
    uid = serializers.UUIDField()
    state = serializers.ChoiceField(choices=ExportJob.State.choices)
    datasets = serializers.ListField(child=serializers.CharField())
    format = serializers.ChoiceField(choices=ExportFormat.choices)
    is_gzipped = serializers.BooleanField()
    filter = serializers.DictField()
    to = serializers.DateTimeField()
    destination = serializers.CharField(allow_null=True)
    ordered_by = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField(allow_null=True)
    is_cancel_asked = serializers.BooleanField()
    total_count = serializers.IntegerField(allow_null=True)
    done_count = serializers.IntegerField()
    done_bytes = serializers.IntegerField()
    redacted_count = serializers.IntegerField()
    attempt_count = serializers.IntegerField()
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    last_error = serializers.CharField(allow_blank=True)
    manifest_sha256 = serializers.CharField(allow_blank=True)


class ExportListSerializer(serializers.Serializer[dict[str, object]]):
    """A page of exports; ``next_before`` is what to ask for next, null at the end."""

    exports = ExportSerializer(many=True)
    next_before = serializers.IntegerField(allow_null=True)


class ExportFileSerializer(serializers.Serializer[dict[str, object]]):
    """One file of a result."""

    name = serializers.CharField()
    dataset = serializers.CharField()
    part = serializers.IntegerField()
    row_count = serializers.IntegerField()
    size_bytes = serializers.IntegerField()
    sha256 = serializers.CharField()
    link = serializers.CharField()


class ExportFilesSerializer(serializers.Serializer[dict[str, object]]):
    """The files of a result, and links to its manifest and to all of it as one .zip."""

    manifest = serializers.CharField(allow_null=True)
    archive = serializers.CharField(allow_null=True)
    files = ExportFileSerializer(many=True)
