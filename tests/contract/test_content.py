"""Records of the trajectories plane: what one line holds, and why it is refused."""

from __future__ import annotations

import pytest

from agent_client.contract.content import ContentFault, Message, SessionFacts, items_of

SESSION = {"_kind": "session", "id": "s-1", "started_at": 1_760_000_000.5}
MESSAGE = {"_kind": "message", "session_id": "s-1", "id": 7, "timestamp": 1_760_000_001}


def fault_of(record: dict[str, object]) -> tuple[str, str]:
    *_, last = items_of(record)
    assert isinstance(last, ContentFault)
    return last.code, last.field


def test_a_session_holds_its_messages_and_gives_them_its_id_and_time() -> None:
    inner = [{"id": 1, "content": "a"}, {"id": 2, "timestamp": 1_760_000_002}]
    facts, first, second = items_of({**SESSION, "messages": inner})
    assert isinstance(facts, SessionFacts)
    assert isinstance(first, Message)
    assert isinstance(second, Message)
    assert (first.session_id, first.sent_ns) == ("s-1", facts.started_ns)
    assert second.sent_ns == 1_760_000_002_000_000_000


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"id": ""}, ("missing_field", "id")),
        ({"id": 7}, ("wrong_type", "id")),
        ({"id": "a\x00"}, ("invalid_text", "id")),
        ({"model": "\ud800"}, ("invalid_text", "model")),
        ({"model": "m" * 5000}, ("too_long", "model")),
        ({"started_at": None}, ("missing_field", "started_at")),
        ({"started_at": "today"}, ("wrong_type", "started_at")),
        ({"started_at": float("inf")}, ("out_of_range", "started_at")),
        ({"message_count": "2"}, ("wrong_type", "message_count")),
        ({"message_count": True}, ("wrong_type", "message_count")),
        ({"message_count": -1}, ("out_of_range", "message_count")),
        ({"messages": {}}, ("wrong_type", "messages")),
        ({"messages": ["a"]}, ("wrong_type", "messages")),
    ],
)
def test_a_session_is_refused_with_the_field_at_fault(
    changes: dict[str, object], fault: tuple[str, str]
) -> None:
    assert fault_of({**SESSION, **changes}) == fault


@pytest.mark.parametrize("name", ["id", "timestamp", "session_id"])
def test_a_message_needs_its_id_its_time_and_its_session(name: str) -> None:
    assert fault_of({**MESSAGE, name: None}) == ("missing_field", name)


def test_another_kind_is_refused() -> None:
    assert fault_of({"_kind": "tel_runs"}) == ("unknown_kind", "")
