"""What the three ways of sending have in common: records become bytes, bytes get an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from django.utils.translation import gettext as _

from telemetry.streams.records import Record

THE_WAY_THERE: Final = frozenset({401, 403, 404, 405, 407, 410})
"""Statuses that say nothing of a record: the address or the login is wrong. Nothing is set aside
for them: once it is mended, everything goes."""

Verdict = Literal["taken", "refused", "later"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a body.

    Shape: ``taken``: acknowledged, ``rejected_count`` of its records for good; ``refused``: it
    will never be taken as it is; ``later``: try again, at ``retry_after_s`` if that was said.
    ``error`` names the cause and what to do, never a header's or a secret's value.
    """

    verdict: Verdict
    error: str = ""
    status: int | None = None
    retry_after_s: float | None = None
    rejected_count: int = 0


class Channel(Protocol):
    """One way of sending. ``pack`` is pure; ``send`` never raises for what the other side does."""

    @property
    def most_records(self) -> int:
        """How many records go into one body."""
        ...

    def pack(self, records: Sequence[Record]) -> bytes:
        """The body, the same for the same records: it is what a dead letter keeps."""
        ...

    def send(self, body: bytes) -> Answer:
        """Send a body and wait for its answer."""
        ...


class NotSet(Exception):
    """The stream cannot be used as it is set up; the text says what to do."""


def is_about_the_way(status: int) -> bool:
    """Whether a status is about the address or the login; redirects are not followed."""
    return 300 <= status < 400 or status in THE_WAY_THERE


def refused_text(status: int, said: str) -> str:
    """A refusal in words, with what to do where that is known."""
    if 300 <= status < 400:
        text = _("The receiver redirects (%(status)d). Enter its final address.")
        return text % {"status": status}
    text = _("The receiver answered %(status)d: %(said)s") % {
        "status": status,
        "said": said or _("(nothing)"),
    }
    if status in {401, 403, 407}:
        text += " " + _("Look at the headers and the secret, in the environment of web and worker.")
    elif status in THE_WAY_THERE:
        text += " " + _("Check the address and its path.")
    return text
