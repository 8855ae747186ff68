"""States as coloured sentence-case labels; the word carries the meaning, the colour helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django.utils.html import format_html
from django.utils.safestring import SafeString

from fleet.templatetags.fleet_format import words

TONES: Final[Mapping[str, str]] = {
    # installs
    "active": "good",
    "revoked": "bad",
    "quarantined": "bad",
    # policy states
    "in_sync": "good",
    "pending": "info",
    "applying": "info",
    "failed": "bad",
    "drifted": "warn",
    "bypassed": "bad",
    "stale": "warn",
    "held": "warn",
    "offline": "quiet",
    "never_seen": "quiet",
    # enrollment
    "expired": "quiet",
    "exhausted": "quiet",
    "approved": "good",
    "denied": "bad",
    "done": "good",
    # runs and calls
    "completed": "good",
    "ok": "good",
    "interrupted": "warn",
    "max_iterations": "warn",
    "timeout": "bad",
    "error": "bad",
    "blocked": "warn",
    "abandoned": "warn",
    "running": "info",
    # checks
    "connected": "good",
    "warning": "warn",
    "unknown": "quiet",
}
"""good, info, warn, bad or quiet by code; a code that is not listed is quiet."""


def label(text: str, tone: str = "quiet", title: str = "") -> SafeString:
    """A label with a dot in front."""
    return format_html(
        '<span class="hf-label hf-label-{}"{}>{}</span>',
        tone,
        format_html(' title="{}"', title) if title else "",
        text,
    )


def state_label(code: str | None, title: str = "") -> SafeString:
    """The label of a code from TONES, in words."""
    return label(words(code) or "–", TONES.get(code or "", "quiet"), title)


def plain_label(text: str, tone: str = "quiet") -> SafeString:
    """A label without a dot, for kinds instead of states."""
    return format_html('<span class="hf-label hf-label-plain hf-label-{}">{}</span>', tone, text)
