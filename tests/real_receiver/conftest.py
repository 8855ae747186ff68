"""Receivers that others wrote, each in an environment of its own, started for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real_receiver import mlflow as mlflows
from tests.real_receiver import phoenix as phoenixes
from tests.real_receiver.environments import shared_environment


@pytest.fixture(scope="session")
def phoenix_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_environment(tmp_path_factory, phoenixes.PACKAGE)


@pytest.fixture
def phoenix(
    phoenix_environment: Path, tmp_path: Path, ran_on: Callable[[str, str], None]
) -> Iterator[phoenixes.Phoenix]:
    ran_on("real receiver", f"Phoenix {phoenixes.PHOENIX_VERSION}")
    folder = tmp_path / "phoenix"
    folder.mkdir()
    with phoenixes.serve_phoenix(phoenix_environment, folder) as running:
        yield running


@pytest.fixture(scope="session")
def mlflow_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_environment(tmp_path_factory, mlflows.PACKAGE)


@pytest.fixture
def mlflow(
    mlflow_environment: Path, tmp_path: Path, ran_on: Callable[[str, str], None]
) -> Iterator[mlflows.MLflow]:
    ran_on("real receiver", f"MLflow {mlflows.MLFLOW_VERSION}")
    folder = tmp_path / "mlflow"
    folder.mkdir()
    with mlflows.serve_mlflow(mlflow_environment, folder) as running:
        yield running
