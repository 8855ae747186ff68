"""Who is in a crowd: install number N of a seed, its ids, its story and its bad habits. Pure."""

from __future__ import annotations

import hashlib
import random
import uuid
from dataclasses import dataclass, replace
from typing import Final

from agent_client.simulation.cast import CAST, Persona

CAPABILITY: Final = "simulated"
"""Every install of a crowd says so of itself when it enrolls."""
VERSIONS: Final = {"0.19.0": 60.0, "0.18.2": 28.0, "0.17.4": 9.0, "0.16.1": 3.0}
"""Agents are upgraded when somebody gets round to it."""
MAX_UTC_SHIFT_H: Final = 3
_LIVING: Final = tuple(persona for persona in CAST if not persona.silent_days)


@dataclass(frozen=True, slots=True)
class Habits:
    """What makes an install a nuisance; zeros and False for a good one.

    ``late_s``: its rows reach the push that much after they happened, as on a laptop that sleeps.
    ``skew_ms``: its clock minus the true time. ``resend_every``: each so many-th batch is sent
    twice, as when the receipt got lost. ``is_silent``: it enrolls and is not heard again.
    ``has_drift``: a file of its user wins over a pin.
    """

    late_s: int = 0
    skew_ms: int = 0
    resend_every: int = 0
    is_silent: bool = False
    has_drift: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One install of a crowd. ``is_zstd``: it compresses with zstd where that is there."""

    number: int
    install_id: uuid.UUID
    machine_id: str
    persona: Persona
    habits: Habits
    is_zstd: bool

    @property
    def name(self) -> str:
        """The host name it gives."""
        return self.persona.name

    def phase_ns(self, interval_ns: int) -> int:
        """When in an interval it comes: from its id, so that a crowd never comes at once."""
        return self.install_id.int % interval_ns


def member_of(seed: int, number: int) -> Member:
    """Install ``number`` (from 1) of a seed; the same whatever else is in the crowd."""
    rng = random.Random(f"{seed}/member/{number}")
    model = rng.choice(_LIVING)
    install_id = uuid.uuid5(uuid.NAMESPACE_DNS, f"{number}.{seed}.crowd.simulation.invalid")
    return Member(
        number,
        install_id,
        hashlib.sha256(f"simulated machine {install_id}".encode()).hexdigest(),
        _varied(model, number, rng),
        habits_of(number, rng),
        is_zstd=number % 2 == 0,
    )


def _varied(model: Persona, number: int, rng: random.Random) -> Persona:
    version = rng.choices(list(VERSIONS), weights=list(VERSIONS.values()))[0]
    upgraded = version == "0.19.0" and rng.random() < 0.5
    return replace(
        model,
        name=f"sim-{model.name}-{number:05d}",
        utc_offset_h=model.utc_offset_h + rng.randint(-MAX_UTC_SHIFT_H, MAX_UTC_SHIFT_H),
        runs_per_day=round(model.runs_per_day * rng.lognormvariate(-0.08, 0.4), 2),
        version=version,
        former_version="0.18.2" if upgraded else "",
        upgraded_days_ago=round(rng.uniform(1, 20), 2) if upgraded else 0.0,
    )


def habits_of(number: int, rng: random.Random) -> Habits:
    """Nuisances by number, not by chance: a crowd of thirty has one of nearly each kind."""
    skew_ms = 0
    if number % 20 == 5:
        skew_ms = rng.choice((-1, 1)) * rng.randint(20_000, 600_000)
    if number % 500 == 21:
        skew_ms = 26 * 3_600_000  # beyond the day that a console allows: its rows are refused
    return Habits(
        late_s=rng.randint(3_600, 5 * 3_600) if number % 25 == 3 else 0,
        skew_ms=skew_ms,
        resend_every=rng.randint(2, 6) if number % 10 == 2 else 0,
        is_silent=number % 50 == 9,
        has_drift=number % 100 == 17,
    )
