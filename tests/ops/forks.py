"""Processes of a console without the seconds that each would take to import it.

One process imports everything once; for each command it forks a child, which reads the settings of
its own environment anew and then is what ``manage.py`` is. They can be killed as any process can.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What a command said, and its exit code: -9 for one that was killed."""

    returncode: int
    stdout: str
    stderr: str


class Forks:
    """Starts commands, each in a process of its own."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forks-")
        self._environ = {**environ, "FLEET_HOME": self._folder.name}
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.ops.forks"],
            env=self._environ,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, environ: dict[str, str], *, words: tuple[str, ...] = (), text: str = "", stdin: str
    ) -> Done:
        """Run ``manage.py WORDS``, or Python in a console that is set up."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        streams = [str(Path(self._folder.name) / f"std{name}") for name in ("in", "out", "err")]
        Path(streams[0]).write_text(stdin)
        ask = {"environ": environ, "words": words, "text": text, "streams": streams}
        self._process.stdin.write(json.dumps(ask) + "\n")
        self._process.stdin.flush()
        try:
            code = int(self._process.stdout.readline())
        except BaseException:  # the test's time is over: nobody after it waits for this command
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = self._start()
            raise
        return Done(code, *(Path(path).read_text(errors="replace") for path in streams[1:]))

    def close(self) -> None:
        """End it."""
        self._process.communicate(input="")
        self._folder.cleanup()


def serve() -> None:
    """Import, then fork for each line of standard input and tell the child's exit code."""
    import django

    django.setup()
    from django.core.management import get_commands, load_command_class
    from django.db.migrations.loader import MigrationLoader

    own = {name: app for name, app in get_commands().items() if app in {"fleet", "telemetry"}}
    for name, app in own.items():
        load_command_class(app, name)
    MigrationLoader(None, ignore_no_migrations=True)
    for name in ("fleet.urls", "tests.builders", "tests.telemetry.builders", "django.test"):
        importlib.import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _be_child(json.loads(line))
        _pid, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _be_child(ask: dict[str, Any]) -> None:  # Any: decoded JSON
    code = 1
    try:
        flags = (os.O_RDONLY, *2 * [os.O_WRONLY | os.O_CREAT | os.O_TRUNC])
        for number, (path, flag) in enumerate(zip(ask["streams"], flags, strict=True)):
            os.dup2(os.open(path, flag, 0o600), number)
        sys.stdin = os.fdopen(0, "r", closefd=False)  # what was read ahead is the parent's
        os.environ.clear()
        os.environ.update(ask["environ"])
        _read_settings_anew()
        if ask["words"]:
            from fleet.cli import main

            sys.argv = ["manage.py", *ask["words"]]
            main()
        else:
            exec(compile(ask["text"], "script", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    except BaseException:  # noqa: BLE001 -- told as Python would
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _read_settings_anew() -> None:
    """Nothing that depends on them was used before the fork: no connection, no key, no file."""
    from django import conf
    from django.db import connections

    import fleet.settings

    importlib.reload(fleet.settings)
    read = conf.Settings("fleet.settings")
    # Apps put their defaults there when they are imported, which is once.
    former: object = getattr(conf.settings, "_wrapped")  # noqa: B009 -- the plugin knows no such name
    vars(read).update({**vars(former), **vars(read)})
    vars(conf.settings).clear()
    setattr(conf.settings, "_wrapped", read)  # noqa: B010 -- as above
    vars(connections).clear()
    connections.__init__()  # type: ignore[misc]  # as new
    assert Path(os.environ["FLEET_HOME"]) == conf.settings.FLEET_HOME


if __name__ == "__main__":
    serve()
