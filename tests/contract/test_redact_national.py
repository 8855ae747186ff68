"""Numbers of states go by their check digits or beside their names; names where they are given."""

from __future__ import annotations

import pytest

from agent_client.contract.redact import redact_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NINO AB 12 34 56 C on file", "NINO [id] on file"),
        ("dni 12345678Z", "dni [id]"),
        ("nie X1234567L", "nie [id]"),
        ("CF RSSMRA85T10A562S", "CF [id]"),
        ("2 55 08 14 168 025 38", "[id]"),
        ("NIR: 255081416802538", "NIR: [id]"),
        ("cpf 529.982.247-25", "cpf [id]"),
        ("cnpj 11.222.333/0001-81", "cnpj [id]"),
        ("aadhaar 2345 6789 0124", "aadhaar [id]"),
        ("PAN: ABCPE1234F", "PAN: [id]"),
        ("SIN 046 454 286", "SIN [id]"),
        ("Steuer-ID: 86 095 742 719", "Steuer-ID: [id]"),
        ("passport no. C01X00T47", "passport no. [id]"),
        ("date of birth: 1980-02-03", "date of birth: [id]"),
        ("Hi, I am Quentin Patel from finance.", "Hi, I am [name] from finance."),
        ("Best regards,\nPriya Öztürk", "Best regards,\n[name]"),
    ],
)
def test_personal_number_goes(text: str, expected: str) -> None:
    assert redact_text(text, pii=True) == expected
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "nie X1234567A",
        "dni 12345678A",
        "CF RSSMRA85T10A562A",
        "2 55 08 14 168 025 39",
        "cpf 529.982.247-26",
        "cpf 111.111.111-11",
        "2345 6789 0123",
        "046 454 286",
        "ABCPE1234F",
        "86095742719",
        "passport: required",
        "released 1980-02-03",
        "I am Not Sure about it",
        "I'm Visual Studio Code",
        "Best regards,\nThe Team",
    ],
)
def test_other_numbers_and_words_stay(text: str) -> None:
    assert redact_text(text, pii=True) == text
