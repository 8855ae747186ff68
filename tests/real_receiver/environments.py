"""Environments of receivers that others wrote, made from the package index and shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interpreters import find_python, made_once, make_venv, shared_folder


def shared_environment(tmp_path_factory: pytest.TempPathFactory, package: str) -> Path:
    """One environment a package for all workers of this run: the first makes it, others wait."""
    folder = shared_folder(tmp_path_factory, "real-receiver") / package.partition("==")[0]
    with made_once(folder) as is_first:
        if is_first:
            make_venv(find_python("3.12"), folder / "venv", package)
    return folder / "venv"
