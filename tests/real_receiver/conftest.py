"""Receivers that others wrote, each in an environment of its own, started for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real_receiver import mlflow as mlflows
from tests.real_receiver import phoenix as phoenixes
from tests.real_receiver.environments import shared_environment

RanOn = Callable[[str, str], None]


@pytest.fixture
def phoenix(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, ran_on: RanOn
) -> Iterator[phoenixes.Phoenix]:
    ran_on("real receiver", f"Phoenix {phoenixes.PHOENIX_VERSION}")
    venv = shared_environment(tmp_path_factory, phoenixes.PACKAGE)
    with phoenixes.serve_phoenix(venv, tmp_path / "phoenix") as running:
        yield running


@pytest.fixture
def mlflow(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, ran_on: RanOn
) -> Iterator[mlflows.MLflow]:
    ran_on("real receiver", f"MLflow {mlflows.MLFLOW_VERSION}")
    venv = shared_environment(tmp_path_factory, mlflows.PACKAGE)
    with mlflows.serve_mlflow(venv, tmp_path / "mlflow") as running:
        yield running
