"""Asks the real shells what they would offer for a line, as if Tab had been pressed behind it."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

DEADLINE_S = 30.0

# Each match that zsh's completion adds is printed; the last hook of a completion says it is over.
# The words are split so that the terminal's echo of these very lines is not taken for them.
ZSH = """
PROMPT= ; autoload -Uz compinit && compinit -u -D
{load}
bindkey '^I' complete-word
compadd() {{
    if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return $?; fi
    typeset -a __hits
    builtin compadd -A __hits "$@"
    local hit; for hit in $__hits; do print -r -- "HIT:$hit"; done
    builtin compadd "$@"
}}
finished() {{ print -r -- "EN""D" }}
comppostfuncs=(finished)
print -r -- "REA""DY"
"""


def offers(shell: str, script: Path, line: str) -> set[str]:
    """The words that a shell with this completion script offers."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](script, line)


def _bash(script: Path, line: str) -> set[str]:
    """By calling what ``complete -F`` registered, with the words as readline splits them."""
    words = line.replace("=", " = ").split(" ")
    program = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); set -u\n'
        "function=$(complete -p hermes-telemetry); function=${function#*-F }\n"
        '"${function%% *}"; printf "%s\\n" ${COMPREPLY[@]+"${COMPREPLY[@]}"}'
    )
    command = ["bash", "--norc", "-c", program, "test", str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


def bash_inserts(script: Path, line: str) -> str:
    """The line as readline leaves it after Tab, in an interactive bash."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover  # becomes the shell
        os.environ.update(TERM="dumb", PS1="")
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    try:
        os.write(terminal, f"source {script}; echo REA''DY\n".encode())
        _read_until(terminal, b"READY")
        # Tab completes; Ctrl-A goes to the front, so that the line is printed instead of run.
        os.write(terminal, line.encode() + b"\t\x01echo 'GO''T'[\x05]\n")
        seen = _read_until(terminal, b"]\r\n")
        while b"GOT[" not in seen:
            seen += _read_until(terminal, b"]\r\n")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)
    return seen.decode().partition("GOT[")[2].partition("]")[0]


def _fish(script: Path, line: str) -> set[str]:
    program = "source $argv[1]; complete --do-complete=$argv[2]"
    command = ["fish", "--no-config", "-c", program, str(script), line]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    assert done.stderr == ""
    return {found.partition("\t")[0] for found in done.stdout.splitlines()}


def _zsh(script: Path, line: str, load: str = "source {script}") -> set[str]:
    setup = script.with_name("setup.zsh")
    setup.write_text(ZSH.format(load=load.format(script=script)))
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover  # becomes the shell
        os.environ.update(TERM="dumb", ZDOTDIR=str(script.parent))
        os.execvp("zsh", ["zsh", "-f", "-i"])
    try:
        os.write(terminal, f"source {setup}\n".encode())
        _read_until(terminal, b"READY")
        os.write(terminal, line.encode() + b"\t")
        seen = _read_until(terminal, b"END").decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)
    lines = seen.replace("\r", "").split("\n")
    return {found.partition("HIT:")[2].replace("\\", "") for found in lines if "HIT:" in found}


def zsh_autoloaded(script: Path, line: str) -> set[str]:
    """The same with the script in a folder of ``fpath``, as the help says to install it."""
    script.rename(script.with_name("_hermes-telemetry"))
    load = f"fpath=({script.parent} $fpath); compinit -u -D"
    return _zsh(script, line, load)


def _read_until(terminal: int, mark: bytes) -> bytes:
    seen, ends_s = b"", time.monotonic() + DEADLINE_S
    while mark not in seen:
        assert time.monotonic() < ends_s, f"no {mark!r} in {seen!r}"
        if select.select([terminal], [], [], 0.05)[0]:
            seen += os.read(terminal, 65_536)
    return seen
