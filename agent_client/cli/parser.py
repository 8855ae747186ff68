"""The verbs as argparse sees them: options, help with an example, exit codes, mended mistypings."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from agent_client import __version__
from agent_client.cli.output import EXIT_USAGE, MEANING_OF_EXIT

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    _Verbs = _SubParsersAction["VerbParser"]

DEST: Final = "telemetry_verb"
"""Not ``command`` or ``func``: the host's own parser uses those on the same namespace."""
POLICY_DEST: Final = "telemetry_policy_verb"
SHELLS: Final = ("bash", "zsh", "fish")
MAX_HELP_COLUMNS: Final = 100
"""Longer lines are hard to read however wide the window is."""

EXITS_OF_VERB: Final[dict[str, tuple[int, ...]]] = {
    "status": (0,),
    "preview": (0, 1),
    "insights": (0, 1),
    "export": (0, 1, 3, 5, 6),
    "rebuild": (0, 1),
    "prune": (0, 1),
    "enroll": (0, 1, 3, 4, 5),
    "unenroll": (0, 1),
    "push": (0, 1, 3, 4, 5, 6),
    "policy show": (0,),
    "policy sync": (0, 1, 4, 5),
    "policy why": (0, 1),
    "doctor": (0, 1),
    "completion": (0,),
}
"""How each verb may end, beside 2 (wrong usage) and 130 (interrupted), with which all may."""


class HelpText(argparse.RawDescriptionHelpFormatter):
    """Help at the width of the terminal; asking argparse for it loads three compression modules."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_columns())
        self._action_max_length = len("completion") + 4  # argparse forgets that verbs are indented


class VerbParser(argparse.ArgumentParser):
    """A parser whose errors name the nearest right word and never quote what may be a secret."""

    def __init__(self, **kw: object) -> None:
        # Abbreviations would turn every option we add into a change of what scripts mean.
        settings = {"allow_abbrev": False, "formatter_class": HelpText, **kw}
        super().__init__(**settings)  # type: ignore[arg-type]  # argparse's own keywords, passed on

    def parse_known_args(  # type: ignore[override]  # one of its overloads, the one argparse calls
        self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse here what is not known: the error then shows this verb's usage."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown_text(unknown[0]))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """One line of usage, one of error, on stderr; exit 2."""
        choice = re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)$", message)
        if choice:
            choices = re.findall(r"[\w-]+", choice[3])
            message = f"{choice[1].lower()}: no {quoted(choice[2])}{nearest(choice[2], choices)}"
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n  see: {self.prog} --help\n")

    def _unknown_text(self, word: str) -> str:
        name = word.partition("=")[0]
        if not name.startswith("-"):
            return f"one word too many{quoted(name, ': ')}"
        return f"no option {quoted(name)}{nearest(name, list(self._option_string_actions))}"


def quoted(word: str, before: str = "") -> str:
    """The word when it reads like one of ours; a pasted credential is not echoed."""
    return (
        f"{before}'{word}'" if re.fullmatch(r"[a-z.-]{1,24}", word) else ("" if before else "such")
    )


def nearest(word: str, known: list[str]) -> str:
    """``; did you mean …?`` for a word close to a known one, else the known words."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are: {', '.join(name for name in known if name != '-h')}"


def new_parser() -> VerbParser:
    """The parser of ``hermes-telemetry``."""
    parser = VerbParser(
        prog="hermes-telemetry",
        description="What this machine's agent records, and what of it leaves.",
    )
    parser.add_argument("--version", action="version", version=f"hermes-telemetry {__version__}")
    add_verbs(parser)
    return parser


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Give a parser our verbs; the host calls it with the parser of ``hermes telemetry``."""
    _add_home(parser)
    if parser.epilog is None:
        parser.epilog = (
            "Without a verb: status. Each verb explains itself: "
            f"{parser.prog} VERB --help\n\n{exits_text(tuple(MEANING_OF_EXIT))}"
        )
        parser.formatter_class = HelpText
    verbs = parser.add_subparsers(
        dest=DEST, metavar="VERB", title="verbs", prog=parser.prog, parser_class=VerbParser
    )
    _add_reading_verbs(verbs)
    _add_keeping_verbs(verbs)
    _add_network_verbs(verbs)
    _add_policy_verbs(verbs)
    _add_helping_verbs(verbs)


def exits_text(codes: tuple[int, ...]) -> str:
    """The exit codes with their meanings, for the end of a help text."""
    lines = (f"  {code}  {MEANING_OF_EXIT[code]}" for code in codes)
    return "exit codes:\n" + "\n".join(lines) + "\n"


def _columns() -> int:
    for stream in (sys.stdout, sys.stderr):
        try:
            return min(os.get_terminal_size(stream.fileno()).columns, MAX_HELP_COLUMNS) - 2
        except (OSError, ValueError):  # no terminal, or a stand-in without a descriptor
            continue
    return 78


def _add_home(parser: argparse.ArgumentParser, **default: str) -> None:
    parser.add_argument(
        "--home",
        metavar="DIR",
        help="the agent's home, instead of HERMES_HOME",
        **default,  # type: ignore[arg-type]  # SUPPRESS or nothing
    )


def _verb(
    verbs: _Verbs, name: str, text: str, example: str = "", *, json: bool = True
) -> VerbParser:
    """A verb that also takes ``--home`` behind its name, and ``--json`` where it reports."""
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    _add_home(parser, default=argparse.SUPPRESS)  # a value before the verb stays
    if json:
        parser.add_argument("--json", action="store_true", help="answer as JSON on stdout")
    words = parser.prog.split()[-2:]
    codes = EXITS_OF_VERB.get(words[-1]) or EXITS_OF_VERB.get(" ".join(words), ())
    command = f"{parser.prog} {example}".rstrip()
    parser.epilog = f"example:\n  {command}\n\n{exits_text((*sorted({*codes, 2}), 130))}"
    return parser


def _add_reading_verbs(verbs: _Verbs) -> None:
    _verb(verbs, "status", "what is recorded, what may leave, what left", "--json")
    text = "what the aggregate plane would send, and if it may"
    preview = _verb(verbs, "preview", text, "--days 7 --lines")
    preview.add_argument("--days", type=_days, metavar="N", help="only the last N days")
    preview.add_argument("--lines", action="store_true", help="the very events, one a line")
    text = "what the agent did: runs, tools, models, errors, cost"
    insights = _verb(verbs, "insights", text, "--days 7")
    insights.add_argument("--days", type=_days, metavar="N", help="only the last N days")
    text = "write the recorded rows to a file or stdout, secrets removed"
    export = _verb(verbs, "export", text, "--out rows.ndjson --since 30")
    target = export.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", metavar="FILE", help="a file, or - for stdout")
    target.add_argument(
        "--otlp", action="store_true", help="send spans to the configured OpenTelemetry collector"
    )
    export.add_argument("--format", choices=("ndjson", "json"), default="ndjson")
    export.add_argument("--since", type=_days, metavar="DAYS", help="only the last DAYS days")
    export.add_argument(
        "--include-content",
        action="store_true",
        help="message content too; works only with telemetry.trajectories.enabled",
    )


def _add_keeping_verbs(verbs: _Verbs) -> None:
    _verb(verbs, "rebuild", "make the database again from the event log")
    prune = _verb(verbs, "prune", "remove log and rows older than the retention", "--dry-run")
    prune.add_argument(
        "--days", type=_whole_days, metavar="N", help="instead of telemetry.retention_days"
    )
    prune.add_argument("--dry-run", action="store_true", help="say what would go; remove nothing")
    prune.add_argument("--yes", action="store_true", help="do not ask before removing more")
    prune.add_argument("--force", action="store_true", help="although the clock has jumped")


def _add_network_verbs(verbs: _Verbs) -> None:
    text = "join an operator's console; nothing leaves before this"
    enroll = _verb(verbs, "enroll", text, "https://console.example -")
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
    push = _verb(verbs, "push", "send what is pending to the console", "--dry-run")
    push.add_argument("--dry-run", action="store_true", help="show what would leave; send nothing")
    push.add_argument("--lines", action="store_true", help="with --dry-run: the very lines")
    push.add_argument("--force", action="store_true", help="do not keep to an earlier wait")


def _add_policy_verbs(verbs: _Verbs) -> None:
    text = "what the fleet pins on this machine, and why"
    policy = _verb(verbs, "policy", text, "why telemetry.local", json=False)
    policy.epilog = "Without a verb: show.\n\n" + exits_text((0, 2, 130))
    inner = policy.add_subparsers(
        dest=POLICY_DEST,
        metavar="VERB",
        title="verbs",
        prog=policy.prog,
        parser_class=VerbParser,
    )
    _verb(inner, "show", "the pins in force, who set them and why", "--json")
    sync = _verb(inner, "sync", "fetch, verify, apply and report the fleet's policy")
    sync.add_argument(
        "--verify-host", action="store_true", help="read back through the installed host as well"
    )
    why = _verb(inner, "why", "where one key's value comes from", "telemetry.local")
    why.add_argument("key", metavar="KEY", help="a dotted key, such as model.default")


def _add_helping_verbs(verbs: _Verbs) -> None:
    doctor = _verb(verbs, "doctor", "check everything and say how to mend it", "--offline")
    doctor.add_argument("--offline", action="store_true", help="do not ask the network")
    completion = _verb(
        verbs, "completion", "print a script by which a shell completes", "bash", json=False
    )
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    completion.description = INSTALL_COMPLETION


INSTALL_COMPLETION: Final = """\
Print a script by which a shell completes hermes-telemetry. To install it:
  bash: hermes-telemetry completion bash \\
            > ~/.local/share/bash-completion/completions/hermes-telemetry
  zsh:  hermes-telemetry completion zsh > ~/.zfunc/_hermes-telemetry
        and in ~/.zshrc:
            fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit
  fish: hermes-telemetry completion fish \\
            > ~/.config/fish/completions/hermes-telemetry.fish
`hermes telemetry ...` is completed by the host, which knows no words of
plugins: there nothing can be completed."""


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError("give a number of days above 0")
    return days


def _whole_days(text: str) -> int:
    days = _days(text)
    if days != int(days):
        raise argparse.ArgumentTypeError("give a whole number of days")
    return int(days)
