"""The host's sessions as records of the export: structure always, content where the plane is open.

A record is made in pieces, so that a session of any length passes through. What cannot be read
leaves a warning, never a failure.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_client.contract.aggregate import OTHER
from agent_client.contract.redact import redact_message, redact_record, redact_text
from agent_client.encoding import dumps
from agent_client.hostdb import (
    MAX_FIELD_BYTES,
    MESSAGE_COLUMNS,
    STATE_DB,
    Fields,
    Session,
    connect,
)
from agent_client.hostdb import messages as messages_of
from agent_client.hostdb import sessions as sessions_of
from agent_client.payload import identifier_of

KIND: Final = "session"
_NAMES: Final = frozenset(name for name, kind in MESSAGE_COLUMNS.items() if kind == "text")
"""Where a tool's name belongs a model may put a sentence, and the host keeps it."""
_CONTENT: Final = ("content", "reasoning", "reasoning_content", "reasoning_details", "tool_calls")


@dataclass(frozen=True, slots=True)
class Scope:
    """What of the sessions is exported; ``with_content`` only behind the trajectories gate."""

    since_ns: int | None = None
    with_content: bool = False
    pii: bool = False


class SessionReader:
    """The session records of one home; afterwards ``count`` and ``warnings`` tell how it went."""

    def __init__(self, home: Path, scope: Scope) -> None:
        self.count = 0
        self._path = home / STATE_DB
        self._scope = scope
        self._fault = ""
        self._long_fields = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the person who exports has to know."""
        found = []
        if self._fault:
            found.append(
                f"the agent's {STATE_DB} could not be read to its end ({self._fault}); "
                f"{self.count} of its sessions are exported"
            )
        if self._long_fields:
            found.append(
                f"{self._long_fields} fields of messages are longer than {MAX_FIELD_BYTES} bytes; "
                "their length is exported in their place"
            )
        return tuple(found)

    def records(self) -> Iterator[Iterator[str]]:
        """Each session as the pieces of one JSON text, to be taken before the next. Never raises.

        Nothing without a readable ``state.db``.
        """
        try:
            if not self._path.is_file():
                return
            since_ns = self._scope.since_ns
            with closing(connect(self._path)) as connection:
                for session in sessions_of(
                    connection,
                    since_s=None if since_ns is None else since_ns / 1e9,
                    with_title=self._scope.with_content,
                ):
                    self.count += 1
                    yield self._record(connection, session)
                    if self._fault:
                        return
        except (sqlite3.Error, OSError) as error:
            self._fault = type(error).__name__

    def _record(self, connection: sqlite3.Connection, session: Session) -> Iterator[str]:
        facts = dict(session.facts)
        title = facts.pop("title", None)
        record = redact_record({"_kind": KIND, **facts})
        if title is not None:
            record["title"] = redact_text(str(title), strict=True, pii=self._scope.pii)
        yield dumps(record)[:-1] + ',"messages":['
        lead = ""
        try:
            for message in messages_of(connection, session):
                yield lead + dumps(self._message(message))
                lead = ","
        except sqlite3.Error as error:
            self._fault = type(error).__name__
            yield '],"is_cut":true}'
        else:
            yield "]}"

    def _message(self, message: Fields) -> dict[str, object]:
        fields = {name: value for name, value in message.fields.items() if value is not None}
        with_content = self._scope.with_content
        if not with_content:
            fields |= {
                name: identifier_of(fields[name]) or OTHER for name in _NAMES & fields.keys()
            }
        made = redact_message(fields, include_content=with_content, pii=self._scope.pii)
        long = {name: message.long[name] for name in _CONTENT if name in message.long}
        if with_content:
            self._long_fields += len(long)
            made |= {name: f"[too-long: {count} characters]" for name, count in long.items()}
        elif long:
            reasoning = [count for name, count in long.items() if name.startswith("reasoning")]
            made["content_chars"] = long.get("content", made["content_chars"])
            made["reasoning_chars"] = max(reasoning, default=made["reasoning_chars"])
        return made
