"""The trajectories plane: what people and agents said, in tables of its own.

Nobody reads them but behind ``telemetry.view_trajectory``, with a stated reason and an audit row
(``pages.content``). Made by ``migrations/sql/0006_content`` like the event tables: day partitions
on PostgreSQL, install and time in every key, no foreign keys; ``batch_id`` leads to the batch and
so to the consent that came with it.
"""
# ruff: noqa: DJ001 -- NULL is "the agent did not say"

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import models

VIEW_TRAJECTORY = "telemetry.view_trajectory"
"""Reading content; given to nobody by itself, and asked for its reason even of a superuser."""


class ContentSessionQuerySet(models.QuerySet["ContentSession"]):
    """Reads of sessions: facts without a title, unless it is asked for."""

    def of_install(self, install_id: UUID) -> ContentSessionQuerySet:
        """Sessions of one install, newest first, without what is content."""
        return self.filter(install_id=install_id).defer("title").order_by("-start_at")


class ContentSession(models.Model):
    """A session of the host; a later copy (``seq``) replaces an earlier. ``title`` is content."""

    pk = models.CompositePrimaryKey("install_id", "start_at", "session_id")
    install_id = models.UUIDField()
    start_at = models.DateTimeField()
    session_id = models.TextField()
    seq = models.BigIntegerField()
    source = models.TextField(null=True)
    model = models.TextField(null=True)
    title = models.TextField(null=True)
    ended_at = models.DateTimeField(null=True)
    message_count = models.BigIntegerField(null=True)
    tool_call_count = models.BigIntegerField(null=True)
    batch_id = models.UUIDField()
    received_at = models.DateTimeField()

    objects = ContentSessionQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_contentsession"
        verbose_name = "session"
        default_permissions = ()
        permissions = [("view_trajectory", "Can read the content of sessions, stating a reason")]

    def __str__(self) -> str:
        return str(self.session_id)


class ContentMessageQuerySet(models.QuerySet["ContentMessage"]):
    """Reads of messages."""

    def of_session(
        self, install_id: UUID, session_id: str, since: datetime
    ) -> ContentMessageQuerySet:
        """A session's messages in the order they were stored."""
        return self.filter(
            install_id=install_id, session_id=session_id, start_at__gte=since
        ).order_by("start_at", "message_id")


class ContentMessage(models.Model):
    """One message, scrubbed in strict mode; stored once.

    Shape: ``*_json`` hold JSON text: content a string or a list of parts, reasoning an object of
    the host's fields, tool calls a list.
    """

    pk = models.CompositePrimaryKey("install_id", "start_at", "session_id", "message_id")
    install_id = models.UUIDField()
    start_at = models.DateTimeField()
    session_id = models.TextField()
    message_id = models.BigIntegerField()
    role = models.TextField(null=True)
    name = models.TextField(null=True)
    tool_name = models.TextField(null=True)
    tool_call_id = models.TextField(null=True)
    finish_reason = models.TextField(null=True)
    token_count = models.BigIntegerField(null=True)
    content_json = models.TextField(null=True)
    reasoning_json = models.TextField(null=True)
    tool_calls_json = models.TextField(null=True)
    batch_id = models.UUIDField()
    received_at = models.DateTimeField()

    objects = ContentMessageQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_contentmessage"
        verbose_name = "message"
        default_permissions = ()

    def __str__(self) -> str:
        return f"message {self.message_id}"


CONTENT_MODELS: tuple[type[ContentSession | ContentMessage], ...] = (
    ContentSession,
    ContentMessage,
)
