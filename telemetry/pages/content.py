"""The content of a session: behind its own permission, a stated reason and an audit row a read.

Nothing is shown to a GET: the reason is typed first, and each page of messages is a read of its
own with a row of its own, written before the content is fetched. A superuser is asked like anybody
else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from fleet.admin.base import reason_of
from fleet.audit import record_change
from fleet.console.people import person_of
from fleet.console.rendering import page
from fleet.lib.clock import now
from fleet.lib.sql import transaction_lock
from fleet.models import ChangeRecord, Install
from telemetry.models import ContentMessage, ContentSession, IngestBatch, Run
from telemetry.models.content import VIEW_TRAJECTORY

PAGE_MESSAGES: Final = 50
READ: Final = "read_content"
READS_AN_HOUR: Final = 60
"""Pages of content a person may open in an hour: enough to look into an incident, too few to copy
a fleet's conversations by hand or by script."""
MIN_REASON_CHARS: Final = 10
"""A reason that a reviewer can judge; a dot is none."""
SHOWN_CHARS: Final = 20_000
"""Of one field; the rest is counted. A page of fifty megabytes helps nobody."""


CLOCK_SLACK: Final = timedelta(days=1)
"""The host's clock may be set back while a session runs; more days would open more partitions."""


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a message as it is shown: text only; ``cut_chars`` of it are left out."""

    label: str
    text: str
    cut_chars: int = 0


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """A message with its parts."""

    message: ContentMessage
    parts: list[Part]


def content_page(request: HttpRequest, install_id: UUID) -> HttpResponse:
    """Ask why, then show a page of a session's messages."""
    session_id = request.GET.get("session", "")[:400]
    session = ContentSession.objects.of_install(install_id).filter(session_id=session_id).first()
    install = Install.objects.filter(pk=install_id).first()
    if session is None or install is None:
        raise Http404
    reason, after = reason_of(request), _after(request)
    context: dict[str, object] = {
        "install": install,
        "session": session,
        "reason": reason,
        "min_reason_chars": MIN_REASON_CHARS,
        "batch": _batch_of(session),
        "error": "",
    }
    if request.method == "POST":
        context["error"] = _admit(request, install, session, reason, after)
        if not context["error"]:
            context |= _content(session, after)
    response = page(request, "telemetry/content.html", _("Session content"), context)
    # Content stays on the page it was asked for: no cache of a browser or a proxy keeps it.
    response["Cache-Control"] = "no-store"
    return response


def _admit(
    request: HttpRequest, install: Install, session: ContentSession, reason: str, after: int
) -> str:
    """Why nothing is shown; "" when the read is on record and may go on."""
    if len(reason) < MIN_REASON_CHARS:
        return _("Say why you read this, in %s characters or more.") % MIN_REASON_CHARS
    person = person_of(request)
    with transaction_lock(f"telemetry-content-reads-{person.pk}"):
        reads = ChangeRecord.objects.filter(
            at__gte=now() - timedelta(hours=1), action=READ, actor=str(person)[:200]
        ).count()
        if reads >= READS_AN_HOUR:
            return _("You have opened %s pages of content in the last hour. Try again later.") % (
                READS_AN_HOUR
            )
        record_change(
            actor=person,
            action=READ,
            target=install,
            pre=None,
            post={"session": session.session_id, "after_message": after},
            reason=reason,
        )
    return ""


def _content(session: ContentSession, after: int) -> dict[str, object]:
    """A page of messages, and the number of the last one when there are more."""
    messages = ContentMessage.objects.of_session(
        session.install_id, session.session_id, session.start_at - CLOCK_SLACK
    )
    rows = list(messages[after : after + PAGE_MESSAGES + 1])
    title = ContentSession.objects.filter(pk=session.pk).values_list("title", flat=True).first()
    return {
        "is_shown": True,
        "title_text": title or "",
        "messages_shown": [ShownMessage(row, _parts(row)) for row in rows[:PAGE_MESSAGES]],
        "first": after + 1,
        "next_after": after + PAGE_MESSAGES if len(rows) > PAGE_MESSAGES else 0,
    }


def _parts(row: ContentMessage) -> list[Part]:
    found = (
        (_("Reasoning"), row.reasoning_json),
        ("", row.content_json),
        (_("Tool calls"), row.tool_calls_json),
    )
    return [_part(label, text) for label, text in found if text is not None]


def _part(label: str, text: str) -> Part:
    value = json.loads(text)
    if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()):
        # The host's fields of reasoning repeat each other.
        value = "\n\n".join(dict.fromkeys(value.values()))
    shown = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    # A lone surrogate has no UTF-8: it would break the page.
    shown = shown.encode("utf-8", "replace").decode("utf-8")
    return Part(label, shown[:SHOWN_CHARS], max(0, len(shown) - SHOWN_CHARS))


def _after(request: HttpRequest) -> int:
    text = request.POST.get("after", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _batch_of(session: ContentSession) -> IngestBatch | None:
    """The batch that brought it, and with it the consent."""
    return (
        IngestBatch.objects.filter(install_id=session.install_id, batch_id=session.batch_id)
        .defer("receipt")
        .first()
    )


def has_content(request: HttpRequest, run: Run) -> bool:
    """Whether a run's session has content that this person may ask for."""
    if not run.session_id or not request.user.has_perm(VIEW_TRAJECTORY):
        return False
    return ContentSession.objects.filter(
        install_id=run.install_id, session_id=run.session_id
    ).exists()
