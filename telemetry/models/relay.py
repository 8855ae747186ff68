"""What is sent on: the order in which batches became visible, where to, how far, what failed.

But for the feed these are the console's own books, see ``exports``.
"""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class FeedEntry(models.Model):
    """One batch whose rows are visible, numbered after its commit: the order everyone follows.

    Who numbers holds a lock and sees only what is committed, so a reader that has passed a number
    has missed none below it, whatever the database did and after a restore as well. A batch that
    waited in the spool is numbered again when its rows are stored.
    """

    install_id = models.UUIDField()
    batch_id = models.UUIDField()
    received_at = models.DateTimeField()
    row_count = models.IntegerField(default=0)

    class Meta:
        verbose_name = _("feed entry")
        ordering = ["id"]
        indexes = [models.Index(fields=["received_at"], name="telemetry_feed_received")]

    def __str__(self) -> str:
        return f"{self.pk}: batch {self.batch_id}"


class Delivery(models.Model):
    """How sending to one place stands: its counts, its circuit breaker, who is at it.

    Shape: taken = sent + rejected (by the receiver, for good) + dead (set aside, may be sent again)
    + expired (too old for it). ``failure_count`` in a row; while ``open_until`` lies ahead nothing
    is tried. ``last_error`` names a cause in words for an operator and never a value of a header.
    """

    sent_count = models.BigIntegerField(default=0, editable=False)
    rejected_count = models.BigIntegerField(default=0, editable=False)
    retry_count = models.BigIntegerField(default=0, editable=False)
    dead_count = models.BigIntegerField(default=0, editable=False)
    expired_count = models.BigIntegerField(default=0, editable=False)
    failure_count = models.PositiveIntegerField(default=0, editable=False)
    open_until = models.DateTimeField(null=True, editable=False)
    last_ok_at = models.DateTimeField(null=True, editable=False)
    last_error = models.CharField(max_length=300, blank=True, default="", editable=False)
    last_error_at = models.DateTimeField(null=True, editable=False)
    lease_until = models.DateTimeField(null=True, editable=False)
    lease_owner = models.CharField(max_length=80, blank=True, default="", editable=False)

    class Meta:
        abstract = True


class RelayDestination(models.Model):
    """A collector that the fleet's telemetry goes on to by OTLP/HTTP.

    Shape: ``endpoint`` is the base under which ``/v1/<signal>`` is appended. ``headers_env`` maps a
    header's name to the NAME of an environment variable beginning with FLEET_OTLP_HDR_; values are
    never stored. ``group_ids`` narrows to install groups, empty: all. ``since_at``: rows received
    before are not sent (back-fill: set it back). Units: ``max_age_h`` hours, older rows are counted
    as expired and not sent, 0: any age.
    """

    class Profile(models.TextChoices):
        """Which GenAI conventions its receiver understands (specification: A1)."""

        V141 = "1.41", "1.41"
        NEXT = "next", _("next")
        BOTH = "both", _("both")

    name = models.CharField(_("name"), max_length=80, unique=True)
    endpoint = models.CharField(_("endpoint"), max_length=300)
    profile = models.CharField(
        _("conventions"), max_length=8, choices=Profile.choices, default=Profile.V141
    )
    sends_traces = models.BooleanField(_("traces"), default=True)
    sends_metrics = models.BooleanField(_("metrics"), default=True)
    sends_logs = models.BooleanField(_("logs"), default=True)
    errors_as_span_events = models.BooleanField(_("errors as span events"), default=False)
    shows_hosts = models.BooleanField(_("host names"), default=False)
    headers_env = models.JSONField(_("headers"), default=dict, blank=True)
    group_ids = models.JSONField(_("groups"), default=list, blank=True)
    max_age_h = models.PositiveIntegerField(_("oldest rows, hours"), default=0)
    since_at = models.DateTimeField(_("rows received since"))
    is_enabled = models.BooleanField(_("enabled"), default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    tested_at = models.DateTimeField(null=True, editable=False)
    test_error = models.CharField(max_length=300, blank=True, default="", editable=False)

    class Meta:
        db_table = "relay_destination"
        verbose_name = _("collector")
        ordering = ["name"]
        permissions = [
            ("test_relaydestination", "Can send test signals to collectors"),
            ("replay_relaydestination", "Can send dead letters again"),
        ]

    def __str__(self) -> str:
        return self.name


class Signal(models.TextChoices):
    """What OTLP knows."""

    TRACES = "traces", _("Traces")
    METRICS = "metrics", _("Metrics")
    LOGS = "logs", _("Logs")


class RelayCursor(Delivery):
    """How far one signal of one collector is.

    Shape: every feed entry up to ``position`` is accounted for. ``sending`` is written before a
    body is sent and says exactly what is in it (feed entries, place within them, parts already
    acknowledged), so that a repeat after a death sends the same records under the same ids.
    ``position`` of metrics counts rounds; ``sending`` then holds the series' start times.
    ``not_offered_at``: its receiver said that it does not take this signal; asked again now and
    then, in between its records count as rejected.
    """

    destination = models.ForeignKey(
        RelayDestination, related_name="cursors", on_delete=models.CASCADE
    )
    signal = models.CharField(max_length=8, choices=Signal.choices)
    position = models.BigIntegerField(default=0)
    sending = models.JSONField(default=dict)
    newest_sent_at = models.DateTimeField(null=True)
    lag_s = models.FloatField(null=True)
    waiting_count = models.BigIntegerField(default=0)
    not_offered_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "relay_cursor"
        verbose_name = _("relay cursor")
        ordering = ["destination", "signal"]
        constraints = [
            models.UniqueConstraint(
                fields=["destination", "signal"], name="telemetry_relaycursor_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.destination} {self.signal}"


class DeadLetter(models.Model):
    """A body that its receiver refused for good, kept as it was sent so that it can be sent again.

    Shape: ``body`` is the gzip protobuf (redacted before it was encoded); of a stream the bytes.
    Exactly one of ``destination`` and ``stream`` is set.
    """

    destination = models.ForeignKey(
        RelayDestination, null=True, related_name="dead_letters", on_delete=models.CASCADE
    )
    stream = models.ForeignKey(
        "telemetry.Stream", null=True, related_name="dead_letters", on_delete=models.CASCADE
    )
    signal = models.CharField(max_length=8)
    record_count = models.IntegerField()
    body = models.BinaryField()
    body_bytes = models.IntegerField()
    status = models.IntegerField(null=True)
    error = models.CharField(max_length=300)
    at = models.DateTimeField()
    replay_asked_at = models.DateTimeField(null=True)
    replayed_at = models.DateTimeField(null=True)
    attempt_count = models.PositiveIntegerField(default=0)

    class Meta:
        db_table = "relay_deadletter"
        verbose_name = _("dead letter")
        ordering = ["-id"]
        indexes = [models.Index(fields=["destination", "-id"], name="telemetry_dead_destination")]

    def __str__(self) -> str:
        return f"{self.record_count} {self.signal}: {self.error}"


class AlertEvent(models.Model):
    """A state that needs a person: when it began and when it was over. Append-only.

    Shape: ``key`` names the state (``install_silent``, ``probe:database``, ``relay:3``); two rows
    of a key are never RAISED in a row. ``count`` is how many things are in that state.
    """

    class State(models.TextChoices):
        """What happened."""

        RAISED = "raised", _("Raised")
        CLEARED = "cleared", _("Cleared")

    key = models.CharField(max_length=80)
    state = models.CharField(max_length=8, choices=State.choices)
    severity = models.CharField(max_length=8)
    text = models.CharField(max_length=300)
    count = models.IntegerField(default=0)
    at = models.DateTimeField()

    class Meta:
        db_table = "relay_alert"
        verbose_name = _("alert")
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["key", "-id"], name="telemetry_alert_key"),
            models.Index(fields=["at"], name="telemetry_alert_at"),
        ]

    def __str__(self) -> str:
        return f"{self.key} {self.state}"


class AlertWatch(models.Model):
    """A state that differs from what its last alert says, since a round; gone when it settles.

    What makes a state hold two rounds before anybody is told, whichever worker looks.
    """

    key = models.CharField(max_length=80, unique=True)
    is_present = models.BooleanField()
    since_at = models.DateTimeField()

    class Meta:
        db_table = "relay_alertwatch"
        verbose_name = _("watched state")

    def __str__(self) -> str:
        return f"{self.key} since {self.since_at}"


class Stream(Delivery):
    """Where the audit log and alerts go as they happen: OTLP logs, a webhook or syslog.

    Shape: ``sends_audit`` and ``sends_alerts`` choose; the positions are the last id of each that
    was acknowledged. ``endpoint``: of OTLP and webhooks a URL, of syslog ``tls://``, ``tcp://`` or
    ``udp://`` host and port. ``headers_env`` as for collectors; ``secret_env`` is the NAME of the
    variable (FLEET_HOOK_…) whose value signs a webhook's body.
    """

    class Kind(models.TextChoices):
        """How it is sent."""

        OTLP = "otlp", _("OpenTelemetry logs")
        WEBHOOK = "webhook", _("Webhook")
        SYSLOG = "syslog", _("Syslog (RFC 5424)")

    name = models.CharField(_("name"), max_length=80, unique=True)
    kind = models.CharField(_("kind"), max_length=8, choices=Kind.choices)
    endpoint = models.CharField(_("endpoint"), max_length=300)
    sends_audit = models.BooleanField(_("audit log"), default=True)
    sends_alerts = models.BooleanField(_("alerts"), default=True)
    headers_env = models.JSONField(_("headers"), default=dict, blank=True)
    secret_env = models.CharField(_("signed with"), max_length=80, blank=True, default="")
    is_enabled = models.BooleanField(_("enabled"), default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    audit_position = models.BigIntegerField(default=0, editable=False)
    alert_position = models.BigIntegerField(default=0, editable=False)
    tested_at = models.DateTimeField(null=True, editable=False)
    test_error = models.CharField(max_length=300, blank=True, default="", editable=False)

    class Meta:
        db_table = "relay_stream"
        verbose_name = _("stream")
        ordering = ["name"]
        permissions = [
            ("test_stream", "Can send test signals to streams"),
            ("replay_stream", "Can send a stream's dead letters again"),
        ]

    def __str__(self) -> str:
        return self.name
