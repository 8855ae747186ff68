"""The verbs: ``hermes-telemetry …`` on its own, and ``hermes telemetry …`` through the host.

A verb's module is imported when it is run; ``status`` costs no network, no TLS and, without a
configuration file, no YAML.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from agent_client.cli.output import (
    EXIT_CREDENTIAL,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NETWORK,
    EXIT_USAGE,
    fail,
    talk,
    tolerate,
)
from agent_client.cli.parser import DEST, POLICY_DEST, add_verbs, new_parser

__all__ = ["add_verbs", "main", "run"]

_HANDLERS: Final = {
    "status": "status:run_status",
    "preview": "preview:run_preview",
    "insights": "data:run_insights",
    "export": "data:run_export",
    "rebuild": "upkeep:run_rebuild",
    "prune": "upkeep:run_prune",
    "enroll": "network:run_enroll",
    "unenroll": "network:run_unenroll",
    "push": "network:run_push",
    "policy show": "policy:run_show",
    "policy sync": "policy:run_sync",
    "policy why": "policy:run_why",
    "doctor": "diagnose:run_doctor",
    "completion": "completion:run_completion",
}
DOCTOR: Final = "hermes-telemetry doctor"
TRACEBACK_VARIABLE: Final = "HERMES_TELEMETRY_TRACEBACK"
"""Set to 1, a fault of ours shows its traceback; else its place: a message may hold a secret."""


def main(argv: Sequence[str] | None = None) -> int:
    """The ``hermes-telemetry`` command; its exit code is one of MEANING_OF_EXIT."""
    try:
        _fill_closed_streams()
        args = new_parser().parse_args(argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return run(args)


def run(args: argparse.Namespace) -> int:
    """Run the verb of parsed arguments; the exit code. Without a verb: status."""
    verb = getattr(args, DEST, None) or "status"
    if verb == "policy":
        verb = f"policy {getattr(args, POLICY_DEST, None) or 'show'}"
    module_name, _, function_name = _HANDLERS[verb].partition(":")
    tolerate(sys.stdout)
    try:
        handler: Callable[[argparse.Namespace], int] = getattr(
            import_module(f"agent_client.cli.{module_name}"), function_name
        )
        done = handler(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        talk("interrupted; nothing is lost, run the same command again")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_FAILED
    except Exception as error:  # said in words, whatever it is; see TRACEBACK_VARIABLE
        if os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        return _code_of(error)
    return done


def home_of(args: argparse.Namespace) -> Path:
    """The home that a verb is about."""
    from agent_client.config import resolve_home

    named = getattr(args, "home", None)
    return resolve_home(Path(named).expanduser() if named else None)


def is_json(args: argparse.Namespace) -> bool:
    """Whether the answer is wanted as JSON."""
    return bool(getattr(args, "json", False))


def _code_of(error: Exception) -> int:
    """Say what a failure is, and give its exit code."""
    name = f"{type(error).__module__}.{type(error).__name__}"
    if name == "agent_client.http.AddressError":
        fail(str(error))
        return EXIT_USAGE
    if name == "agent_client.http.NetworkError":
        fail(str(error), "Nothing is lost; run the same command again later.")
        return EXIT_NETWORK
    if name == "agent_client.http.ApiError":
        status = getattr(error, "status", 0)
        fail(f"the console refused: {error}")
        return EXIT_CREDENTIAL if status == 401 else EXIT_FAILED
    if name == "agent_client.store.StoreError" or isinstance(error, OSError):
        said = _words_of(error)
        fail(said, "" if DOCTOR in said else f"Run '{DOCTOR}'.")
    elif name.startswith("sqlite3."):
        fail(f"the local database: {type(error).__name__}", f"Run '{DOCTOR}'.")
    else:
        fail(
            f"a fault in this program: {type(error).__name__} at {_place_of(error)}",
            f"Please report it; {TRACEBACK_VARIABLE}=1 shows more (read it before you share it).",
        )
    return EXIT_FAILED


def _words_of(error: Exception) -> str:
    """What happened to which file, without a number that only programmers know."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _place_of(error: Exception) -> str:
    """File and line of the innermost frame that is ours."""
    frame, place = error.__traceback__, "an unknown place"
    while frame is not None:
        path = Path(frame.tb_frame.f_code.co_filename)
        if Path(__file__).parents[1] in path.parents:
            place = f"{path.name}:{frame.tb_lineno}"
        frame = frame.tb_next
    return place


def _fill_closed_streams() -> None:
    """Stand-ins for streams closed before the start: a file opened later would take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # for the whole process


def _silence_stdout() -> None:
    """Keep the interpreter's own flush at exit from complaining about a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
