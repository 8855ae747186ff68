"""Effective values: each key with its source."""

from __future__ import annotations

import pytest

from fleet.policy.effective import effective_values, mandatory_values
from tests.builders import make_group, make_install, make_pin, publish

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def test_without_a_policy_every_key_has_its_default() -> None:
    install = make_install()
    values = effective_values(install)
    assert values["telemetry.retention_days"].value == 90
    assert {value.source for value in values.values()} == {"default"}
    assert mandatory_values(install) == {}


def test_a_value_names_the_fleet_or_the_group_it_comes_from() -> None:
    north = make_group("north")
    make_pin("telemetry.retention_days", 30, reason="law")
    pin = make_pin("model.default", "large", group=north)
    publish()
    values = effective_values(make_install(group=north))
    fleet, group = values["telemetry.retention_days"], values["model.default"]
    assert (fleet.value, fleet.source, fleet.reason, fleet.revision) == (30, "fleet", "law", 1)
    assert (group.source, group.source_name, group.pin_id) == ("group", "north", pin.pk)


def test_an_edited_pin_counts_only_when_it_is_published() -> None:
    install = make_install()
    publish()
    make_pin("telemetry.local", False)
    assert effective_values(install)["telemetry.local"].source == "default"


def test_a_recommendation_binds_nothing() -> None:
    make_pin("telemetry.local", False, level="recommended")
    publish()
    install = make_install()
    assert effective_values(install)["telemetry.local"].level == "recommended"
    assert mandatory_values(install) == {}


def test_a_map_is_one_value() -> None:
    make_pin("telemetry.export.otlp.headers_env", {"Authorization": "OTLP_AUTH"})
    publish()
    values = mandatory_values(make_install())
    assert values == {"telemetry.export.otlp.headers_env": {"Authorization": "OTLP_AUTH"}}
