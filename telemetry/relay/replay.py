"""Dead letters: a person asks for them to be sent again, or discards them; the relay sends them.

An order marks the letters; whoever next holds the cursor of their collector and signal sends each
of them once. One that is taken keeps its row without its body, one that is refused again waits for
the next order with its new reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, Final

from django.db import transaction
from django.db.models import F, QuerySet, Sum

from fleet.audit import Actor, record_change
from fleet.lib.clock import now
from telemetry.delivery.http import Sender
from telemetry.models import DeadLetter, RelayCursor
from telemetry.relay.cursor import Books
from telemetry.relay.letters import MAX_ERROR_CHARS
from telemetry.relay.send import Outcome, send_body

MAX_ORDER: Final = 1_000
"""Letters of one order: what a person can have looked at."""


def ask_replay(letters: Iterable[DeadLetter], *, actor: Actor, reason: str) -> int:
    """Mark letters to be sent again, with an audit row a collector; how many are new.

    At most MAX_ORDER, the oldest; what was taken meanwhile or is marked already is left alone.
    """
    moment = now()

    def mark(chosen: QuerySet[DeadLetter]) -> int:
        return chosen.filter(replay_asked_at=None).update(replay_asked_at=moment)

    return _order(letters, "replay", mark, actor=actor, reason=reason)


def discard(letters: Iterable[DeadLetter], *, actor: Actor, reason: str) -> int:
    """Delete letters that nobody wants sent, with an audit row a collector; how many."""
    return _order(letters, "discard", lambda chosen: chosen.delete()[0], actor=actor, reason=reason)


def asked_of(cursor: RelayCursor) -> QuerySet[DeadLetter]:
    """The letters of a cursor that are to be sent again."""
    return DeadLetter.objects.filter(
        destination_id=cursor.destination_id,
        signal=cursor.signal,
        replay_asked_at__isnull=False,
        replayed_at=None,
    )


def send_letters(books: Books, sender: Sender, ends_at_s: float) -> bool:
    """Send what was asked for; False when the rest, and everything else, has to wait."""
    keys = list(asked_of(books.cursor).order_by("pk").values_list("pk", flat=True)[:MAX_ORDER])
    for pk in keys:
        # One that its install's erasure or a person removed meanwhile is not there any more.
        letter = DeadLetter.objects.filter(pk=pk, replay_asked_at__isnull=False).first()
        if letter is None:
            continue
        books.write()
        DeadLetter.objects.filter(pk=pk).update(attempt_count=F("attempt_count") + 1)
        outcome = send_body(
            sender,
            letter.signal,
            bytes(letter.body),
            record_count=letter.record_count,
            headers_env=books.cursor.destination.headers_env,
        )
        if not _account(books, letter, outcome):
            return False
        if time.monotonic() >= ends_at_s:
            return False
    return True


def _account(books: Books, letter: DeadLetter, outcome: Outcome) -> bool:
    """Write what became of a letter; False when the next one has to wait."""
    mine = DeadLetter.objects.filter(pk=letter.pk)
    if outcome.kind in {"retry", "stop"}:
        books.pause(outcome)
        return False
    if outcome.kind != "taken":
        mine.update(
            replay_asked_at=None, error=outcome.text[:MAX_ERROR_CHARS], status=outcome.status
        )
        return True
    with transaction.atomic():
        mine.update(replayed_at=now(), body=b"", body_bytes=0)
        count = letter.record_count
        values: dict[str, Any] = {  # Any: expressions
            "dead_count": F("dead_count") - count,
            "sent_count": F("sent_count") + count - outcome.rejected_count,
            "rejected_count": F("rejected_count") + outcome.rejected_count,
        }
        books.write(
            **values, failure_count=0, open_until=None, last_ok_at=now(), not_offered_at=None
        )
    return True


def _order(
    letters: Iterable[DeadLetter],
    action: str,
    act: Callable[[QuerySet[DeadLetter]], int],
    *,
    actor: Actor,
    reason: str,
) -> int:
    keys = sorted({letter.pk for letter in letters})[:MAX_ORDER]
    total = 0
    with transaction.atomic():
        open_letters = DeadLetter.objects.filter(pk__in=keys, replayed_at=None)
        if action == "replay":
            open_letters = open_letters.filter(replay_asked_at=None)
        rows = list(
            open_letters.select_related("destination", "stream")
            .defer("body")
            .order_by("destination_id", "stream_id", "pk")
        )
        records = []
        for (_destination, _stream), group in groupby(
            rows, key=lambda letter: (letter.destination_id, letter.stream_id)
        ):
            some = list(group)
            chosen = DeadLetter.objects.filter(
                pk__in=[letter.pk for letter in some], replayed_at=None
            )
            said = {
                "letters": len(some),
                "records": chosen.aggregate(all=Sum("record_count"))["all"] or 0,
                "first": some[0].pk,
                "last": some[-1].pk,
            }
            total += act(chosen)
            records.append((some[0].destination or some[0].stream, said))
        for target, said in records:  # last in the transaction: it holds the chain's lock
            if target is not None:
                record_change(
                    actor=actor,
                    action=f"deadletter.{action}",
                    target=target,
                    pre=said,
                    post={},
                    reason=reason,
                )
    return total
