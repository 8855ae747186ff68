"""The typed pin editor: a map is read as JSON; what is wrong with it the contract says."""

from __future__ import annotations

import json

import pytest

from fleet.admin.pin_form import PinForm, field_name
from fleet.models import Pin, PinLevel, PinScope
from tests.builders import make_pin

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]

PRICES = {"openrouter/vendor/model-1.5": {"input": 2.5, "output": 10, "cache_read": 0}}


def form_of(key: str, text: str) -> PinForm:
    data = {
        "scope": PinScope.FLEET,
        "key": key,
        "level": PinLevel.values[0],
        "reason": "contract",
        "on_expiry": Pin._meta.get_field("on_expiry").get_default(),
        field_name(key): text,
    }
    return PinForm(data)


def test_prices_are_typed_as_json_and_pinned_as_a_map() -> None:
    form = form_of("telemetry.prices", json.dumps(PRICES))
    assert form.errors == {}
    assert form.save().value == PRICES


def test_prices_that_are_held_are_shown_as_json() -> None:
    form = PinForm(instance=make_pin("telemetry.prices", PRICES))
    assert json.loads(str(form[field_name("telemetry.prices")].value())) == PRICES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cheap", "not JSON"),
        ('{"m": {"input": 1}}', "input and for output"),
        ("[]", "map of model"),
    ],
)
def test_prices_that_are_none_say_why(text: str, words: str) -> None:
    form = form_of("telemetry.prices", text)
    assert words in str(form.errors[field_name("telemetry.prices")])
