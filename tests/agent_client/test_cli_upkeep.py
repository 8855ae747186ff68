"""``prune``, ``preview`` and progress: what a person is asked, told and shown while they wait."""

from __future__ import annotations

import importlib
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_client import cli
from agent_client.cli.ticker import Ticker
from agent_client.pruner import Hold, PruneReport
from agent_client.store import Store
from tests.agent_client.builders import run_event, store_events
from tests.agent_client.homes import record
from tests.agent_client.terminals import Terminal


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return tmp_path


class Pruning:
    """Stands for ``retention.prune``: notes how it is called, answers as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, report: PruneReport) -> None:
        self.report, self.calls = report, list[dict[str, object]]()
        module = importlib.import_module("agent_client.retention")
        monkeypatch.setattr(module, "prune", self.prune)

    def prune(
        self, home: Path, *, progress: Callable[[PruneReport], None], **wanted: object
    ) -> PruneReport:
        self.calls.append(wanted)
        progress(self.report)
        return self.report


def at_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> Terminal:
    screen, keyboard = Terminal(), Terminal()
    io.StringIO.write(keyboard, answer)
    keyboard.seek(0)
    monkeypatch.setattr("sys.stdin", keyboard)
    monkeypatch.setattr("sys.stderr", screen)
    return screen


def test_prune_keeps_to_the_configuration_without_asking(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = PruneReport(
        rows={"tel_runs": 2, "tel_spans": 0},
        unsent_rows=1,
        log_files=3,
        log_bytes=4000,
        oldest_kept_ns=1_790_000_000_000_000_000,
    )
    pruning = Pruning(monkeypatch, report)
    (home / "config.yaml").write_text("telemetry: {retention_days: 30}\n")
    assert cli.main(["prune"]) == 0
    assert pruning.calls == [{"retention_days": 30, "dry_run": False, "force": False}]
    out, err = capsys.readouterr()
    assert "2 rows removed: 2 runs\n3 log files removed, 4.0 kB of the log" in out
    assert "oldest kept: 2026-" in out
    assert "1 row of them had not been sent" in err


@pytest.mark.parametrize("days", ["30", "31", "3650"])
def test_prune_does_not_ask_when_no_more_goes_than_is_configured(
    home: Path, monkeypatch: pytest.MonkeyPatch, days: str
) -> None:
    pruning = Pruning(monkeypatch, PruneReport())
    (home / "config.yaml").write_text("telemetry: {retention_days: 30}\n")
    assert cli.main(["prune", "--days", days]) == 0
    assert pruning.calls[0]["retention_days"] == int(days)


@pytest.mark.parametrize(
    ("answer", "code", "calls"), [("y\n", 0, 1), ("YES\n", 0, 1), ("n\n", 1, 0), ("", 1, 0)]
)
def test_prune_asks_before_it_removes_more(
    home: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, calls: int
) -> None:
    pruning = Pruning(monkeypatch, PruneReport())
    screen = at_terminal(monkeypatch, answer)
    assert cli.main(["prune", "--days", "3"]) == code
    assert len(pruning.calls) == calls
    assert "Remove everything older than 3 days for good? [y/N]" in screen.getvalue()
    assert ("Nothing was removed." in screen.getvalue()) == bool(code)


def test_prune_without_a_terminal_removes_more_only_when_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pruning = Pruning(monkeypatch, PruneReport())
    assert cli.main(["prune", "--days", "3"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert pruning.calls == []
    assert cli.main(["prune", "--days", "3", "--dry-run"]) == 0
    assert cli.main(["prune", "--days", "3", "--yes", "--force"]) == 0
    assert [call["dry_run"] for call in pruning.calls] == [True, False]
    assert pruning.calls[1]["force"] is True


@pytest.mark.parametrize(("hold", "said"), [("clock", "clock has jumped"), ("push", "push is")])
def test_prune_says_what_holds_it(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hold: Hold,
    said: str,
) -> None:
    Pruning(monkeypatch, PruneReport(hold=hold))
    assert cli.main(["prune"]) == 1
    assert said in capsys.readouterr().err
    assert cli.main(["prune", "--dry-run"]) == 0
    capsys.readouterr()
    assert cli.main(["prune", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["hold"] == hold


def test_what_is_too_old_is_gone_after_a_prune(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day_ns = 86_400 * 10**9
    for number, days in enumerate((400, 2)):
        start_ns = time.time_ns() - days * day_ns
        store_events(home, run_event(run_id=f"r{number}", start_ns=start_ns, end_ns=start_ns + 1))

    def runs() -> int:
        with Store(home) as store:
            return store.counts()["tel_runs"]

    assert cli.main(["prune", "--dry-run"]) == 0
    assert "1 row would go: 1 run\n" in capsys.readouterr().out
    assert runs() == 2
    assert cli.main(["prune"]) == 0
    assert "1 row removed: 1 run\n" in capsys.readouterr().out
    assert runs() == 1
    assert cli.main(["prune"]) == 0
    assert "Nothing older than 90 days" in capsys.readouterr().out
    assert cli.main(["prune", "--days", "1", "--yes"]) == 0
    assert runs() == 0


# ----------------------------------------------------------------------------------- preview


@pytest.mark.parametrize(
    ("config", "because"),
    [
        ("", ["telemetry.consent_state is unknown (default)"]),
        (
            "telemetry: {allow_aggregate: false, consent_state: local}\n",
            ["telemetry.allow_aggregate is off (user)", "telemetry.consent_state is local (user)"],
        ),
        ("telemetry: {consent_state: aggregate}\n", []),
    ],
)
def test_preview_says_why_the_gate_is_closed(
    home: Path, capsys: pytest.CaptureFixture[str], config: str, because: list[str]
) -> None:
    record(home)
    if config:
        (home / "config.yaml").write_text(config)
    assert cli.main(["preview", "--days", "7"]) == 0
    shown = capsys.readouterr().out
    assert ("Aggregate plane: closed" in shown) == bool(because)
    assert ("Aggregate plane: open" in shown) != bool(because)
    assert all(reason in shown for reason in because)
    assert re.search(r"completed +1 with record_id, .*heartbeat +1 with ", shown, re.DOTALL)
    cli.main(["preview", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["is_open"], len(found["closed_because"])) == (not because, len(because))


def test_preview_prints_the_very_events(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["preview", "--lines"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["_kind"] == "heartbeat"


# ---------------------------------------------------------------------------------- progress


def test_progress_is_one_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    with Ticker("working", stream=screen, quiet_s=0.001) as ticker:
        ticker.note("12 rows")
        assert screen.drawn.wait(10)
    seen = screen.getvalue()
    assert "working … 0 s, 12 rows" in seen
    assert "\n" not in seen
    assert seen.endswith("\r\x1b[K")
    assert all(len(line) <= 79 for line in seen.split("\r\x1b[K"))


def test_progress_is_silent_when_it_is_quick_or_nobody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    quick, file = Terminal(), io.StringIO()
    with Ticker("working", stream=quick), Ticker("working", stream=file, quiet_s=0.0):
        pass
    assert (quick.getvalue(), file.getvalue()) == ("", "")
    dumb = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    with Ticker("working", stream=dumb, quiet_s=0.0) as ticker:
        ticker.note(1)
    assert dumb.getvalue() == ""


def test_progress_is_gone_before_an_error_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("agent_client.cli.ticker.QUIET_S", 0.0)

    def fail(self: object) -> int:
        assert screen.drawn.wait(10)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent_client.journal.Journal.rebuild", fail)
    assert cli.main(["rebuild"]) == 1
    *drawn, said = screen.getvalue().split("\r\x1b[K")
    assert "rebuilding from the event log" in drawn[-1]
    assert said.startswith("\x1b[31merror:")


def test_an_export_shows_how_far_it_is(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home)
    noted: list[str] = []
    monkeypatch.setattr(Ticker, "note", lambda _self, detail: noted.append(str(detail)))
    assert cli.main(["export", "--out", str(tmp_path / "rows")]) == 0
    assert noted[-1] == "3 records"
