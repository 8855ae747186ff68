"""Personal data goes in `pii` mode; numbers that only look like it stay."""

from __future__ import annotations

import pytest

from agent_client.contract.redact import redact_text, redact_value


def scrub(text: str) -> str:
    return redact_text(text, pii=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("From: o'neil+x@corp.example.co.uk!", "From: [email]!"),
        ("an aisha@bücher.example wrote", "an [email] wrote"),
        ("tel +387 61 123 456", "tel [phone]"),
        ('{"from":"+263 71 234 5678"}', '{"from":"[phone]"}'),
        ("phone: (415) 555-2671", "phone: [phone]"),
        ("Tél : 06 12 34 56 78", "Tél : [phone]"),
        ("móvil: 612 345 678", "móvil: [phone]"),
        ("电话: 13812345678", "电话: [phone]"),
        ("電話: 090-1234-5678", "電話: [phone]"),
        ("телефон: 8 916 123-45-67", "телефон: [phone]"),
        ("text me: 555-867-5309", "text me: [phone]"),
        ("Mob: 98765 43210", "Mob: [phone]"),
        ("card 4111 1111 1111 1111 exp", "card [id] exp"),
        ("visa 4222222222222 ok", "visa [id] ok"),
        ("IBAN: GB82WEST12345698765432", "IBAN: [id]"),
        ("IBAN GB82 WEST 1234 5698 7654 32.", "IBAN [id]."),
        ("SSN 250-36-5593 on file", "SSN [id] on file"),
        ("src=191.148.185.161:52344", "src=[id]:52344"),
        ("peer 2001:a:a1d:3045:aee4:438e:e0f7:7d81 closed", "peer [id] closed"),
        ("link/ether a0:66:46:52:3a:14 brd", "link/ether [id] brd"),
        ("/home/lucia/project/app.py", "/home/[id]/project/app.py"),
        ("C:\\Users\\Lucia\\x", "C:\\Users\\[id]\\x"),
        ("user_id=38558ef5-ae1f-4b9e-8216-43f43a7eb74c", "user_id=[id]"),
        ("chat_id: -1001234567", "chat_id: [id]"),
    ],
)
def test_personal_data_is_replaced(text: str, expected: str) -> None:
    assert scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "input_tokens: 994038 cost_usd=0.502993 pid 81480 port 47843",
        "ts_ns=4342508488061117581 and ts=1780337076",
        "ts=4111111111111111",
        "serial 4222222222222",
        "card 4111 1111 1111 1112",
        "user@staticmethod pkg@1.3.4 actions/checkout@v5 icon@2x.png",
        "version 3.0.8.1 and build 1.38.617.0599",
        "listening on 127.0.0.1 and ::1 or 0.0.0.0, mask 255.255.255.255",
        "std::cafe::beef at 10:11:12",
        "1:2:3:4:5",
        "2026-08-11T10:11:12.199627Z",
        "000-12-3456 and 666-12-3456",
        "GB00WEST12345698765432",
        "AB12 3456 7890",
        "/home/runner/work and /home/1000/x",
        "session_id=38558ef5-ae1f-4b9e-8216-43f43a7eb74c",
        "(x - 123) * 573 7104",
        "x = a+15551234567890123456",
        "+1 2",
        "+999 123 456 789",
        "diff +1234567 lines",
        "tel: see 12-34",
    ],
)
def test_numbers_that_are_no_personal_data_stay(text: str) -> None:
    assert scrub(text) == text


def test_names_of_fields_tell_telephone_and_user_id() -> None:
    value = {
        "phone": "0711 234567",
        "user_id": "38558ef5-ae1f-4b9e-8216-43f43a7eb74c",
        "customerId": "99881",
        "user_uuid": "none",
        "": "x y",
        "id": "99881",
    }
    assert redact_value(value, pii=True) == value | {
        "phone": "[phone]",
        "user_id": "[id]",
        "customerId": "[id]",
    }
