"""The verbs: ``hermes-telemetry …`` on its own, and ``hermes telemetry …`` through the host.

A verb's module is imported when it is run; ``status`` costs no network, no TLS and, without a
configuration file, no YAML.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent_client import __version__
from agent_client.cli.output import (
    EXIT_CODES,
    EXIT_CREDENTIAL,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NETWORK,
    EXIT_USAGE,
    fail,
    talk,
)

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    _Verbs = _SubParsersAction[argparse.ArgumentParser]

DEST: Final = "telemetry_verb"
"""Not ``command`` or ``func``: the host's own parser uses those on the same namespace."""
POLICY_DEST: Final = "telemetry_policy_verb"

_HANDLERS: Final = {
    "status": "status:run_status",
    "insights": "data:run_insights",
    "export": "data:run_export",
    "rebuild": "data:run_rebuild",
    "enroll": "network:run_enroll",
    "unenroll": "network:run_unenroll",
    "push": "network:run_push",
    "policy show": "policy:run_show",
    "policy sync": "policy:run_sync",
    "policy why": "policy:run_why",
    "doctor": "diagnose:run_doctor",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The ``hermes-telemetry`` command; its exit code is one of EXIT_CODES."""
    parser = argparse.ArgumentParser(
        prog="hermes-telemetry",
        description="What this machine's agent records, and what of it leaves.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hermes-telemetry {__version__}")
    add_verbs(parser)
    return run(parser.parse_args(argv))


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Give a parser our verbs; the host calls it with the parser of ``hermes telemetry``."""
    parser.add_argument("--home", metavar="DIR", help="the agent's home, instead of HERMES_HOME")
    if parser.epilog is None:
        parser.epilog = EXIT_CODES
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest=DEST, metavar="VERB", title="verbs")
    _add_reading_verbs(verbs)
    _add_network_verbs(verbs)
    _add_policy_verbs(verbs)


def run(args: argparse.Namespace) -> int:
    """Run the verb of parsed arguments; the exit code. Without a verb: status."""
    verb = getattr(args, DEST, None) or "status"
    if verb == "policy":
        verb = f"policy {getattr(args, POLICY_DEST, None) or 'show'}"
    module_name, _, function_name = _HANDLERS[verb].partition(":")
    handler: Callable[[argparse.Namespace], int] = getattr(
        import_module(f"agent_client.cli.{module_name}"), function_name
    )
    try:
        done = handler(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        talk("interrupted; nothing is lost, run the same command again")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_FAILED
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        return code
    return done


def home_of(args: argparse.Namespace) -> Path:
    """The home that a verb is about."""
    from agent_client.config import resolve_home

    named = getattr(args, "home", None)
    return resolve_home(Path(named).expanduser() if named else None)


def is_json(args: argparse.Namespace) -> bool:
    """Whether the answer is wanted as JSON."""
    return bool(getattr(args, "json", False))


def _code_of(error: Exception) -> int | None:
    """Say what an expected failure is and give its exit code; None for a fault of ours."""
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
        fail(str(error), "Run 'hermes-telemetry doctor'.")
        return EXIT_FAILED
    if name.startswith("sqlite3."):
        fail(f"the local database: {type(error).__name__}", "Run 'hermes-telemetry doctor'.")
        return EXIT_FAILED
    return None


def _silence_stdout() -> None:
    """Keep the interpreter's own flush at exit from complaining about a closed pipe."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _verb(verbs: _Verbs, name: str, text: str, *, json: bool = True) -> argparse.ArgumentParser:
    """A verb that also takes ``--home`` behind its name, and ``--json`` where it reports."""
    parser = verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    if json:
        parser.add_argument("--json", action="store_true", help="answer as JSON on stdout")
    return parser


def _add_reading_verbs(verbs: _Verbs) -> None:
    _verb(verbs, "status", "what is recorded, what may leave, what left")
    insights = _verb(verbs, "insights", "what the agent did: runs, tools, models, errors, cost")
    insights.add_argument("--days", type=_positive, metavar="N", help="only the last N days")
    export = _verb(verbs, "export", "write the recorded rows to a file or stdout, secrets removed")
    export.add_argument("--out", required=True, metavar="FILE", help="a file, or - for stdout")
    export.add_argument("--format", choices=("ndjson", "json"), default="ndjson")
    export.add_argument("--since", type=_positive, metavar="DAYS", help="only the last DAYS days")
    export.add_argument(
        "--include-content",
        action="store_true",
        help="message content too; works only with telemetry.trajectories.enabled",
    )
    _verb(verbs, "rebuild", "make the database again from the event log")
    doctor = _verb(verbs, "doctor", "check everything and say how to mend it")
    doctor.add_argument("--offline", action="store_true", help="do not ask the console")


def _add_network_verbs(verbs: _Verbs) -> None:
    enroll = _verb(verbs, "enroll", "join an operator's console; nothing leaves before this")
    enroll.add_argument("url", metavar="URL", help="the console's address")
    enroll.add_argument(
        "token",
        nargs="?",
        metavar="STRING",
        help="the enrollment string; - reads it from stdin and keeps it out of shell history",
    )
    enroll.add_argument("--token-file", metavar="FILE", help="read the enrollment string from FILE")
    enroll.add_argument("--new-id", action="store_true", help="take a new install id first")
    enroll.add_argument("--force", action="store_true", help="replace the enrollment that is there")
    enroll.add_argument("--no-wait", action="store_true", help="do not wait for an approval")
    enroll.add_argument(
        "--insecure-http", action="store_true", help="allow plain http to another machine"
    )
    _verb(verbs, "unenroll", "forget the console's credential; recorded data stays")
    push = _verb(verbs, "push", "send what is pending to the console")
    push.add_argument("--dry-run", action="store_true", help="show what would leave; send nothing")
    push.add_argument("--lines", action="store_true", help="with --dry-run: the very lines")
    push.add_argument("--force", action="store_true", help="do not keep to an earlier wait")


def _add_policy_verbs(verbs: _Verbs) -> None:
    policy = _verb(verbs, "policy", "what the fleet pins on this machine, and why", json=False)
    inner = policy.add_subparsers(dest=POLICY_DEST, metavar="VERB", title="verbs")
    _verb(inner, "show", "the pins in force, who set them and why")
    sync = _verb(inner, "sync", "fetch, verify, apply and report the fleet's policy")
    sync.add_argument(
        "--verify-host", action="store_true", help="read back through the installed host as well"
    )
    why = _verb(inner, "why", "where one key's value comes from")
    why.add_argument("key", metavar="KEY", help="a dotted key, such as model.default")


def _positive(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError("give a number of days above 0")
    return days
