"""Telephone numbers by the tables of phonenumbers, against phonenumbers itself."""

from __future__ import annotations

import phonenumbers
import pytest

from agent_client.contract.redact_phones import PhoneNumbers

FORMATS = (phonenumbers.PhoneNumberFormat.E164, phonenumbers.PhoneNumberFormat.INTERNATIONAL)


def is_number(text: str, *, is_named: bool = False) -> bool:
    return PhoneNumbers().check(text, is_named=is_named)


def test_the_example_numbers_of_every_region_are_numbers() -> None:
    numbers = PhoneNumbers()
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in (phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE):
            example = phonenumbers.example_number_for_type(region, kind)
            if example is not None:
                for form in FORMATS:
                    text = phonenumbers.format_number(example, form)
                    assert numbers.check(text, is_named=False), text


def test_international_services_are_numbers() -> None:
    assert is_number("+800 1234 5678")


@pytest.mark.parametrize(
    "text", ["+1 000 000 0000", "+999 12345678", "+44 1", "+49 0000000", "+1718000000000"]
)
def test_digits_that_no_region_knows_are_none(text: str) -> None:
    assert not is_number(text)


def test_the_trunk_zero_in_brackets_is_no_digit() -> None:
    assert is_number("+44 (0)20 7946 0018")
    assert is_number("+44 020 7946 0018")


def test_near_a_telephone_word_the_length_decides() -> None:
    assert is_number("+1 555 010 0000", is_named=True)
    assert not is_number("+1 55", is_named=True)
    assert is_number("030 1234567", is_named=True)
    assert not is_number("03 1234", is_named=True)
