"""``completion bash|zsh|fish``: static scripts made from the very parser that reads the verbs.

One walk over argparse gives a list of nodes (the root, each verb, each verb's verb); each shell's
script is a printing of that list. All three find the node that the words so far lead to in the
same way: an option's value is skipped, a word that names a verb below the node descends to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent_client.cli.output import EXIT_OK, say
from agent_client.cli.parser import new_parser
from agent_client.contract.policy_keys import KEYS

PROGRAM: Final = "hermes-telemetry"
_FILES, _FOLDERS, _NOTHING = "<file>", "<folder>", ""
_BY_METAVAR: Final = {"FILE": _FILES, "DIR": _FOLDERS, "KEY": " ".join(KEYS)}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its names; ``value`` is None for a switch, else what completes its value."""

    names: tuple[str, ...]
    help: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Node:
    """A place in the tree of verbs; ``word`` completes the first word that is no option."""

    path: str
    options: tuple[Option, ...]
    verbs: tuple[tuple[str, str], ...]
    word: str


def run_completion(args: argparse.Namespace) -> int:
    """Print the script of one shell."""
    print_script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell]
    say("\n".join(print_script(list(nodes(new_parser())))))
    return EXIT_OK


def nodes(parser: argparse.ArgumentParser, path: str = "") -> Iterator[Node]:
    """The parser and all below it; a verb's path is ``/policy/show``, the root's ""."""
    options: list[Option] = []
    words: list[str] = []
    verbs: tuple[tuple[str, str], ...] = ()
    below: list[Node] = []
    for action in parser._actions:  # noqa: SLF001  # argparse has no public list of them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # nor a public name
            helps = {item.dest: item.help or "" for item in action._get_subactions()}  # noqa: SLF001
            verbs = tuple((name, helps[name]) for name in action.choices)
            for name, inner in action.choices.items():
                below.extend(nodes(inner, f"{path}/{name}"))
        elif action.option_strings:
            value = None if action.nargs == 0 else _completes(action)
            options.append(Option(tuple(action.option_strings), action.help or "", value))
        else:
            words.append(_completes(action))
    yield Node(path, tuple(options), verbs, words[0] if words else _NOTHING)
    yield from below


def _completes(action: argparse.Action) -> str:
    if action.choices is not None:
        return " ".join(map(str, action.choices))
    return _BY_METAVAR.get(str(action.metavar), _NOTHING)


def _valued(tree: list[Node]) -> list[str]:
    """Every option that takes a value; the same name takes one everywhere (a test holds it)."""
    found = {name for node in tree for o in node.options if o.value is not None for name in o.names}
    return sorted(found)


def _paths(tree: list[Node]) -> list[str]:
    return [node.path for node in tree if node.path]


# -------------------------------------------------------------------------------------- bash


def _bash(tree: list[Node]) -> Iterator[str]:
    yield f"# bash completion for {PROGRAM}; works without bash-completion and with bash 3.2."
    yield "_hermes_telemetry_words() {"
    yield '    COMPREPLY=($(compgen -W "$1" -- "$2"))'
    yield "}"
    yield "_hermes_telemetry_files() {"
    yield "    compopt -o filenames 2>/dev/null"
    yield "    local IFS=$'\\n'"
    yield '    COMPREPLY=($(compgen "$1" -- "$2"))'
    yield "}"
    yield "_hermes_telemetry() {"
    yield "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}"
    yield '    local at="" skip="" words=0 i w'
    yield "    COMPREPLY=()"
    yield "    # bash makes a word of its own of the = in --home=DIR."
    yield '    if [[ $word == "=" ]]; then'
    yield '        word=""'
    yield '    elif [[ $before == "=" ]]; then'
    yield "        before=${COMP_WORDS[COMP_CWORD - 2]}"
    yield "    fi"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield "        w=${COMP_WORDS[i]}"
    yield '        if [[ $w == "=" ]]; then skip=1; continue; fi'
    yield '        if [[ -n $skip ]]; then skip=""; continue; fi'
    yield "        case $w in"
    yield f"            {'|'.join(_valued(tree))}) skip=1 ;;"
    yield "            -*) ;;"
    yield "            *) case $at/$w in"
    yield f"                {'|'.join(_paths(tree))}) at=$at/$w words=0 ;;"
    yield "                *) words=$((words + 1)) ;;"
    yield "            esac ;;"
    yield "        esac"
    yield "    done"
    yield "    case $at:$before in"
    for node in tree:
        for option in node.options:
            if option.value is not None:
                pattern = "|".join(f"{node.path}:{name}" for name in option.names)
                yield f"        {pattern}) {_bash_value(option.value)}; return ;;"
    yield "    esac"
    yield "    case $word in"
    yield "        -*) case $at in"
    for node in tree:
        names = " ".join(name for option in node.options for name in option.names)
        yield f'            {_quote(node.path)}) _hermes_telemetry_words {_quote(names)} "$word" ;;'
    yield "        esac; return ;;"
    yield "    esac"
    yield "    [[ $words == 0 ]] || return"
    yield "    case $at in"
    for node in tree:
        words = " ".join(name for name, _help in node.verbs) or node.word
        yield f"        {_quote(node.path)}) {_bash_value(words)} ;;"
    yield "    esac"
    yield "}"
    yield f"complete -F _hermes_telemetry {PROGRAM}"


def _bash_value(value: str) -> str:
    if value == _FILES:
        return '_hermes_telemetry_files -f "$word"'
    if value == _FOLDERS:
        return '_hermes_telemetry_files -d "$word"'
    return f'_hermes_telemetry_words {_quote(value)} "$word"' if value else ":"


# --------------------------------------------------------------------------------------- zsh


def _zsh(tree: list[Node]) -> Iterator[str]:
    yield f"#compdef {PROGRAM}"
    yield f"# zsh completion for {PROGRAM}; the file's name has to begin with an underscore."
    for node in tree:
        yield f"{_zsh_name(node)}() {{"
        yield "    local curcontext=$curcontext state line"
        yield "    typeset -A opt_args"
        yield "    _arguments -C -S \\"
        for option in node.options:
            yield f"        {_zsh_option(option)} \\"
        if node.verbs:
            yield "        '1:verb:->verb' \\"
            yield "        '*::word:->below' && return"
            yield "    case $state in"
            yield "        verb)"
            yield "            local -a verbs=("
            for name, text in node.verbs:
                yield f"                {_quote(f'{name}:{_zsh_text(text)}')}"
            yield "            )"
            yield "            _describe verb verbs ;;"
            yield "        below)"
            yield "            case $words[1] in"
            for name, _text in node.verbs:
                yield f"                {name}) {_zsh_name(node)}_{name} ;;"
            yield "            esac ;;"
            yield "    esac"
        else:
            yield f"        {_quote(f'1:word:{_zsh_value(node.word)}')} '*:word: '"
        yield "}"
    yield "# Autoloaded, this file is the function itself; sourced, it has to be made known."
    yield "if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then"
    yield '    _hermes_telemetry "$@"'
    yield "else"
    yield f"    compdef _hermes_telemetry {PROGRAM}"
    yield "fi"


def _zsh_name(node: Node) -> str:
    return "_hermes_telemetry" + node.path.replace("/", "_")


def _zsh_option(option: Option) -> str:
    text = f"[{_zsh_text(option.help)}]"
    names = " ".join(option.names)
    value = "" if option.value is None else f":value:{_zsh_value(option.value)}"
    if len(option.names) == 1:
        equals = "" if option.value is None else "="
        return _quote(f"{names}{equals}{text}{value}")
    return _quote(f"({names})") + "{" + ",".join(option.names) + "}" + _quote(f"{text}{value}")


def _zsh_value(value: str) -> str:
    known = {_FILES: "_files", _FOLDERS: "_files -/", _NOTHING: " "}
    return known.get(value, f"({value})")


def _zsh_text(text: str) -> str:
    for char in "\\[]:":
        text = text.replace(char, f"\\{char}")
    return text


# -------------------------------------------------------------------------------------- fish


def _fish(tree: list[Node]) -> Iterator[str]:
    yield f"# fish completion for {PROGRAM}."
    yield "function __hermes_telemetry_at --description 'whether the words so far lead to a verb'"
    yield "    set -l words (commandline -opc)"
    yield "    set -l at ''"
    yield "    set -l count 0"
    yield "    set -l skip 0"
    yield "    for word in $words[2..-1]"
    yield "        if test $skip = 1"
    yield "            set skip 0"
    yield "            continue"
    yield "        end"
    yield "        switch $word"
    yield f"            case {' '.join(_valued(tree))}"
    yield "                set skip 1"
    yield "            case '-*'"
    yield "            case '*'"
    yield f"                if contains -- $at/$word {' '.join(_paths(tree))}"
    yield "                    set at $at/$word"
    yield "                    set count 0"
    yield "                else"
    yield "                    set count (math $count + 1)"
    yield "                end"
    yield "        end"
    yield "    end"
    yield '    test "$at" = "$argv[1]"; or return 1'
    yield "    test (count $argv) = 1; or test $count = 0"
    yield "end"
    yield f"complete -c {PROGRAM} -f"
    for node in tree:
        for name, text in node.verbs:
            yield f"{_fish_at(node, is_first_word=True)} -a {name} -d {_fish_quote(text)}"
        if node.word == _FILES:
            yield f"{_fish_at(node, is_first_word=True)} -F"
        elif node.word:
            yield f"{_fish_at(node, is_first_word=True)} -a {_fish_quote(node.word)}"
        for option in node.options:
            yield f"{_fish_at(node)} {_fish_option(option)}"


def _fish_at(node: Node, *, is_first_word: bool = False) -> str:
    where = f"__hermes_telemetry_at '{node.path}'" + (" first" if is_first_word else "")
    return f'complete -c {PROGRAM} -n "{where}"'


def _fish_option(option: Option) -> str:
    names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
    values = {None: "", _FILES: " -r -F", _NOTHING: " -x"}
    folders = " -x -a '(__fish_complete_directories (commandline -ct))'"
    default = folders if option.value == _FOLDERS else f" -x -a {_fish_quote(option.value or '')}"
    return f"{names}{values.get(option.value, default)} -d {_fish_quote(option.help)}"


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quote(text: str) -> str:
    """In single quotes for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"
