"""The tools the project is built with, tested like the rest of it."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import coverage
import pytest

from tests import floors, interpreters, suite

ROOT = Path(__file__).resolve().parent.parent
SHELL_TOOLS = ("cat", "cksum", "dirname", "head", "mkdir", "mv", "rm", "sh", "sleep")


# -------------------------------------------------------------------------- deploy/venv.sh
def folder_with_script(tmp_path: Path) -> Path:
    """A copy of what venv.sh works on, and a PATH that holds nothing but a shell's tools."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "agent_client").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "deploy/venv.sh", tmp_path / "deploy")
    for name in ("pyproject.toml", "agent_client/pyproject.toml"):
        (tmp_path / name).write_text("[project]\n")
    for tool in SHELL_TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def run_script(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": str(folder / "bin"), "HOME": str(folder), "PIP_NO_INDEX": "1"}
    if "LD_LIBRARY_PATH" in os.environ:  # an interpreter outside its place needs it to start
        clean["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return subprocess.run(
        ["sh", str(folder / "deploy/venv.sh")],
        env={**clean, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def fake_environment(folder: Path) -> Path:
    """A .venv that counts installs instead of making them; returns the log of them."""
    log = folder / "installs"
    write_program(
        folder / ".venv/bin/python",
        f'#!/bin/sh\ncase "$*" in *"pip install"*) echo x >>{log}; exit ${{PIP_RC:-0}};; esac\n'
        f'exec {sys.executable} "$@"\n',
    )
    return log


def test_a_missing_python_is_named_with_three_ways_to_mend_it(tmp_path: Path) -> None:
    done = run_script(folder_with_script(tmp_path))
    assert done.returncode == 1
    assert "no usable Python >= 3.12" in done.stderr
    assert done.stderr.count("    - ") == 3


def test_a_broken_shim_is_passed_over_for_an_interpreter_under_pyenv(tmp_path: Path) -> None:
    folder = folder_with_script(tmp_path)
    write_program(folder / "bin/python3.12", "#!/bin/sh\nexit 127\n")
    real = folder / ".pyenv/versions/3.12.9/bin/python"
    fails = 'case "$*" in *"-m venv"*) exit 1;; esac'  # being chosen is enough here
    write_program(real, f'#!/bin/sh\n{fails}\nexec {sys.executable} "$@"\n')
    done = run_script(folder)
    assert f"Making .venv with {real}" in done.stderr


def test_a_failed_install_says_what_to_mend_and_is_tried_again(tmp_path: Path) -> None:
    folder = folder_with_script(tmp_path)
    log = fake_environment(folder)
    failed = run_script(folder, PIP_RC="1")
    assert failed.returncode == 1
    assert "PIP_INDEX_URL" in failed.stderr
    assert run_script(folder).returncode == 0
    assert log.read_text() == "x\nx\n"


def test_nothing_is_installed_again_until_a_project_file_changes(tmp_path: Path) -> None:
    folder = folder_with_script(tmp_path)
    log = fake_environment(folder)
    assert run_script(folder).returncode == 0
    assert run_script(folder).stderr == ""
    assert log.read_text() == "x\n"
    (folder / "agent_client/pyproject.toml").write_text("[project]\n# changed\n")
    assert run_script(folder).returncode == 0
    assert log.read_text() == "x\nx\n"


def test_a_lock_whose_owner_is_gone_does_not_stop_anybody(tmp_path: Path) -> None:
    folder = folder_with_script(tmp_path)
    fake_environment(folder)
    (folder / ".venv.lock").mkdir()
    (folder / ".venv.lock/pid").write_text("999999999")
    assert run_script(folder).returncode == 0
    assert not (folder / ".venv.lock").exists()


# ----------------------------------------------------------------------------- Makefile, .ci
@pytest.mark.parametrize("target", ["demo", "up", "test", "check"])
def test_make_help_names_the_public_commands(target: str) -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"make {target} " in done.stdout


def run_ci(tmp_path: Path, *present: str, user_id: int = 0) -> str:
    """Run .ci/run where only ``present`` is installed; what it called, a line each."""
    folder, log = tmp_path / "bin", tmp_path / "calls"
    for tool in ("dirname", "env", "sh", "sleep"):
        folder.mkdir(exist_ok=True)
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    write_program(folder / "id", f"#!/bin/sh\necho {user_id}\n")
    for name in ("apt-get", "make", *present):
        write_program(folder / name, f'#!/bin/sh\necho "{name} $* CI=$CI" >>{log}\n')
    environ = {"PATH": str(folder)}
    subprocess.run([str(ROOT / ".ci/run")], env=environ, capture_output=True, check=True)
    return log.read_text()


def test_continuous_integration_runs_make_test_and_nothing_cleverer(tmp_path: Path) -> None:
    present = ("chromium", "fish", "nginx", "redis-server", "systemd-analyze", "zsh")
    assert run_ci(tmp_path, *present) == "make test CI=true\n"


def test_continuous_integration_installs_what_the_system_lacks(tmp_path: Path) -> None:
    calls = run_ci(tmp_path, "google-chrome").splitlines()
    assert [call.split()[0] for call in calls] == ["apt-get", "apt-get", "make"]
    assert "redis-server" in calls[1]
    assert {"fish", "nginx-light", "systemd", "zsh"} <= set(calls[1].split())
    assert "chromium" not in calls[1]


def test_a_checker_that_a_test_misses_is_installed_in_continuous_integration() -> None:
    """With CI=true its absence is a failure, so the run has to bring it itself."""
    texts = "".join(path.read_text() for path in (ROOT / "tests/deploy").glob("*.py"))
    named = set(re.findall(r"apt-get install ([\w-]+)\)", texts))
    assert named == {"nginx-light", "systemd"}
    installed = set(re.findall(r"echo ([\w-]+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert named <= installed


def test_continuous_integration_installs_nothing_as_an_ordinary_user(tmp_path: Path) -> None:
    assert run_ci(tmp_path, user_id=1000) == "make test CI=true\n"


def test_every_changelog_fragment_is_of_a_known_kind() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    kinds = {kind["directory"] for kind in config["type"]}
    names = [path.name for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
    assert [name for name in names if not kinds & set(name.split("."))] == []


# ------------------------------------------------------------------------------------- suite
def test_a_failed_step_shows_its_output_and_how_to_repeat_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = "import os, sys; print('why', os.environ['X']); sys.exit(3)"
    assert not suite.run_quietly(suite.Step("it", (sys.executable, "-c", code), {"X": "7"}))
    shown = capsys.readouterr().out
    assert shown.startswith("FAILED")
    assert "why 7" in shown
    assert "repeat with: X=7 " in shown


def test_a_passed_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.run_quietly(suite.Step("it", (sys.executable, "-c", "print('noise')")))
    assert capsys.readouterr().out.count("\n") == 1


def test_a_console_in_the_callers_shell_does_not_reach_the_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://production")
    monkeypatch.setenv("FLEET_SECRET_KEY", "of production")
    monkeypatch.setenv("FLEET_TEST_PRIVATE", "1")
    seen = suite.environment_of(suite.Step("it", ("true",)))
    assert not {"DATABASE_URL", "FLEET_SECRET_KEY"} & seen.keys()
    assert seen["FLEET_TEST_PRIVATE"] == "1"


# ------------------------------------------------------------------------------------ floors
def test_the_floors_are_those_the_conventions_name() -> None:
    read = floors.read_floors((ROOT / "pyproject.toml").read_text())
    assert {floor.name: floor.floor for floor in read} == {
        "contract": 100,
        "agent": 95,
        "console": 90,
    }


def test_a_line_that_did_not_run_is_missed_in_the_measure(tmp_path: Path) -> None:
    module = tmp_path / "half.py"
    module.write_text("def f():\n    return 1\n\n\nX = 1\nY = 2\n")
    code = f"import runpy; runpy.run_path({str(module)!r})"
    tool = [sys.executable, "-m", "coverage", "run", "--rcfile=/dev/null", f"--source={tmp_path}"]
    (tmp_path / "main.py").write_text(code)
    # Without the outer measurement's variables, which would make the child report to it.
    outer = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START", "COVERAGE_FILE")
    clean = {name: value for name, value in os.environ.items() if name not in outer}
    subprocess.run([*tool, str(tmp_path / "main.py")], cwd=tmp_path, env=clean, check=True)
    data = coverage.Coverage(data_file=str(tmp_path / ".coverage"), config_file=False)
    data.load()
    percent, report = floors.measure(data, floors.Floor("x", 90, (str(module),), ()))
    assert percent == 75.0
    assert "half.py" in report


def test_a_part_that_nothing_measured_is_below_any_floor(tmp_path: Path) -> None:
    data = coverage.Coverage(data_file=str(tmp_path / "none"), config_file=False)
    assert floors.measure(data, floors.Floor("x", 1, ("nowhere/*",), ()))[0] == 0.0


# ------------------------------------------------------------------------------------ wheels
def build_wheel(project: Path, out: Path) -> zipfile.ZipFile:
    tool = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*tool, str(project)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(io.BytesIO(next(out.glob("*.whl")).read_bytes()))


@pytest.mark.slow
def test_the_agents_wheel_holds_its_package_and_works_alone_on_its_oldest_python(
    tmp_path: Path,
) -> None:
    with build_wheel(ROOT / "agent_client", tmp_path) as wheel:
        names = wheel.namelist()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "telemetry = agent_client.plugin" in wheel.read(entry_points).decode()
        tops = {name.partition("/")[0] for name in names}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"agent_client"}
        wheel.extractall(tmp_path / "site")
    # Isolated: neither this repository nor the suite's packages are on the path.
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import agent_client, agent_client.contract, agent_client.contract.events\n"
        "import agent_client.emitter\n"
        f"assert agent_client.__file__.startswith({str(tmp_path)!r})\n"
    )
    python = interpreters.find_python("3.11")
    bare = tmp_path / "bare"
    subprocess.run([python, "-m", "venv", "--without-pip", str(bare)], check=True)
    done = subprocess.run(
        [str(bare / "bin/python"), "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_consoles_wheel_holds_its_code_and_no_tests(tmp_path: Path) -> None:
    with build_wheel(ROOT, tmp_path) as wheel:
        tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fleet", "telemetry"}
