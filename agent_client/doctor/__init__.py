"""Checks of one home: each finding has a level, and a way to mend it. Nothing is changed.

``fail`` means that something the user asked for does not work; ``warn`` that it may surprise;
``info`` says what is so, without judging it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from agent_client import config
from agent_client.credential import load_credential
from agent_client.doctor import collector, console, host, machine, records
from agent_client.doctor.check import Check, Subject
from agent_client.http import Transport

__all__ = ["Check", "examine"]


def examine(
    home: Path | None = None, *, offline: bool = False, transport: Transport | None = None
) -> list[Check]:
    """All checks of a home, in the order in which one would mend them. Never raises."""
    settings = config.load(home)
    subject = Subject(settings.home, settings, load_credential(settings.home), offline)
    checks: tuple[Callable[[Subject], Iterator[Check]], ...] = (
        machine.check_home,
        machine.check_python,
        host.check_configuration,
        host.check_managed_scope,
        host.check_plugin,
        machine.check_permissions,
        machine.check_disk,
        records.check_spool,
        records.check_database,
        records.check_retention,
        console.check_policy,
        lambda subject: console.check_console(subject, transport),
        collector.check_collector,
        machine.check_timers,
    )
    return [check for examine_one in checks for check in _guarded(examine_one, subject)]


def _guarded(
    examine_one: Callable[[Subject], Iterator[Check]], subject: Subject
) -> Iterator[Check]:
    """The findings of one check; a check that breaks is a finding too, and the others go on."""
    try:
        yield from examine_one(subject)
    except OSError as error:
        name = getattr(examine_one, "__name__", "").removeprefix("check_") or "console"
        finding = f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}"
        yield Check(name, "fail", finding, "Check who owns it, and who may read it.")
    except Exception as error:  # noqa: BLE001  # what is examined is what may be broken
        name = getattr(examine_one, "__name__", "").removeprefix("check_") or "console"
        hint = "Please report it: a check is to find faults, not to have them."
        yield Check(name, "fail", f"could not be checked ({type(error).__name__})", hint)
