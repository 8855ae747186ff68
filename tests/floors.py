"""Hold the coverage floors of ``[tool.hermes-fleet.coverage]`` over one combined data file."""

from __future__ import annotations

import io
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Floor:
    """A part of the code and the least per cent of its lines that the tests must run."""

    name: str
    floor: float
    include: tuple[str, ...]
    omit: tuple[str, ...]


def read_floors(text: str) -> list[Floor]:
    """The floors in the order of the file."""
    table = tomllib.loads(text)["tool"]["hermes-fleet"]["coverage"]
    return [
        Floor(name, row["floor"], tuple(row["include"]), tuple(row.get("omit", ())))
        for name, row in table.items()
    ]


def measure(data: coverage.Coverage, floor: Floor) -> tuple[float, str]:
    """Per cent of lines run, and a report of the files below 100; 0 if nothing was measured."""
    report = io.StringIO()
    try:
        percent = data.report(file=report, include=list(floor.include), omit=list(floor.omit))
    except coverage.exceptions.NoDataError:
        return 0.0, "nothing was measured\n"
    return percent, report.getvalue()


def main() -> int:
    """Print a line for each floor, and the missing lines of a part below its own."""
    data = coverage.Coverage(config_file=str(ROOT / "pyproject.toml"))
    data.load()
    is_held = True
    for floor in read_floors((ROOT / "pyproject.toml").read_text()):
        percent, report = measure(data, floor)
        # Rounded down, so that 99.996 never passes for 100.
        shown = int(percent * 100) / 100
        if shown >= floor.floor:
            print(f"  {floor.name}: {shown:.2f} % of lines (floor {floor.floor} %)")
            continue
        is_held = False
        print(f"  {floor.name}: {shown:.2f} % of lines is below the floor of {floor.floor} %")
        print(report)
    return 0 if is_held else 1


if __name__ == "__main__":
    sys.exit(main())
