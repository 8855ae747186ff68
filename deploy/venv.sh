#!/bin/sh
# Makes .venv with this repository's two distributions in it, editable, and everything needed to
# run, test and change them. Cheap when there is nothing to do; safe to interrupt and run again.
#
# Needs one of: a Python >= 3.12 (on the PATH or under pyenv), or uv, which fetches one.
# PYTHON=/path/to/python names the interpreter to use.

set -eu
cd "$(dirname "$0")/.."

venv=.venv
lock=.venv.lock
stamp=$venv/hermes-fleet.stamp
is_recent='import sys; sys.exit(sys.version_info < (3, 12))'
can_make_venv='import ensurepip, venv'

say() { printf '%s\n' "$*" >&2; }

# Each candidate is run, not only found: a pyenv shim stands on the PATH and fails when inactive.
runs() { "$1" -c "$2" </dev/null >/dev/null 2>&1; }

has_uv() { command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; }

# One line a candidate, best first; 3.12 leads because it is what the suite runs on.
candidates() {
    [ -z "${PYTHON:-}" ] || { printf '%s\n' "$PYTHON"; return; }
    for name in python3.12 python3.13 python3.14 python3 python; do
        old_ifs=$IFS
        IFS=:
        for folder in $PATH; do
            [ ! -x "${folder:-.}/$name" ] || printf '%s\n' "${folder:-.}/$name"
        done
        IFS=$old_ifs
    done
    for found in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.*/bin/python; do
        [ ! -x "$found" ] || printf '%s\n' "$found"
    done
}

# Prints the first usable interpreter, or nothing. Without uv it must bring venv and ensurepip.
find_python() {
    candidates | while IFS= read -r candidate; do
        runs "$candidate" "$is_recent" || continue
        has_uv || runs "$candidate" "$can_make_venv" || continue
        printf '%s\n' "$candidate"
        break
    done
}

no_python() {
    say 'Cannot make .venv: no usable Python >= 3.12.'
    if [ -n "${PYTHON:-}" ]; then
        say "  PYTHON=$PYTHON does not run, is older than 3.12, or lacks the venv module."
        exit 1
    fi
    candidates | while IFS= read -r candidate; do
        if runs "$candidate" "$is_recent"; then
            say "  $candidate is recent enough but lacks venv and ensurepip"
            say '    (Debian and Ubuntu: apt-get install python3-venv).'
        fi
    done
    ! has_uv || say '  uv is here and could not fetch one; its lines above say why.'
    say '  Looked on the PATH and under pyenv. Any one of these mends it:'
    say '    - install Python 3.12 or later with your system, pyenv or python.org;'
    say '    - install uv (pip install uv), which fetches a Python by itself;'
    say '    - name one: make venv PYTHON=/path/to/python3.12'
    exit 1
}

no_install() {
    say 'Cannot install the packages into .venv. The lines above say why. Usual causes:'
    say '  - no package index: set PIP_INDEX_URL (pip) or UV_DEFAULT_INDEX (uv), or a proxy;'
    say '  - no room or no right to write in this folder.'
    say 'Run the same make command again once that is mended.'
    exit 1
}

# What .venv was made from; when it differs, the packages are installed again. The path counts
# because scripts and editable installs hold it: a copied folder needs its own environment.
wanted_stamp() {
    pwd -P
    "$venv/bin/python" -V 2>&1
    cksum pyproject.toml agent_client/pyproject.toml
}

is_current() {
    [ -f "$stamp" ] && runs "$venv/bin/python" "$is_recent" && [ "$(wanted_stamp)" = "$(cat "$stamp")" ]
}

# An environment is used again only if it runs, stands where it was made and fits PYTHON=.
is_reusable() {
    runs "$venv/bin/python" "$is_recent" || return 1
    [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -V 2>&1)" = "$("$venv/bin/python" -V 2>&1)" ] || return 1
    ! [ -f "$stamp" ] || [ "$(head -n 1 "$stamp")" = "$(pwd -P)" ]
}

make_environment() {
    python=$(find_python)
    if [ -n "$python" ]; then
        say "Making .venv with $python ($("$python" -V 2>&1))."
        if has_uv; then
            uv venv --quiet --clear --python "$python" "$venv" && return
            runs "$python" "$can_make_venv" || no_python
        fi
        "$python" -m venv --clear "$venv"
    elif [ -z "${PYTHON:-}" ] && has_uv; then
        say 'No Python >= 3.12 here: asking uv to fetch one.'
        # only-managed: uv would otherwise stumble over inactive pyenv shims.
        UV_PYTHON_PREFERENCE=only-managed uv venv --quiet --clear --python 3.12 "$venv" || no_python
    else
        no_python
    fi
}

# Both distributions on one command line: the console depends on the agent's, which no index has.
install_packages() {
    if has_uv; then
        uv pip install --quiet --python "$venv/bin/python" -e ./agent_client -e '.[dev]' && return
        say 'uv could not install the packages; trying pip.'
    fi
    # An environment that uv made has no pip.
    runs "$venv/bin/python" 'import pip' || "$venv/bin/python" -m ensurepip >/dev/null || no_install
    # Twice quiet: warnings about the index are the machine's, errors are still shown.
    "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
        -e ./agent_client -e '.[dev]' || no_install
}

# One installer at a time; a lock whose owner is gone is taken over.
take_lock() {
    while ! mkdir "$lock" 2>/dev/null; do
        if ! [ -d "$lock" ]; then
            say "Cannot write in $(pwd): make needs to create .venv there."
            say '  Run it as the owner of this folder, or work in a clone of your own.'
            exit 1
        fi
        owner=$(cat "$lock/pid" 2>/dev/null || echo)
        if [ -z "$owner" ] || ! kill -0 "$owner" 2>/dev/null; then
            sleep 1 # the owner may be between mkdir and writing its number
            [ "$(cat "$lock/pid" 2>/dev/null || echo)" != "$owner" ] || rm -rf "$lock"
            continue
        fi
        sleep 1
    done
    trap 'rm -rf "$lock"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' HUP TERM
    echo $$ >"$lock/pid"
}

is_current && exit 0
take_lock
is_current && exit 0
is_reusable || make_environment
rm -f "$stamp" # from here on, until all is installed, the environment is unfinished
say 'Installing packages into .venv (a minute or two on first use).'
install_packages
wanted_stamp >"$stamp.new"
mv "$stamp.new" "$stamp"
