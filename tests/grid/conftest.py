"""The fixture `grid`: `python -m runner -m …` in a process that a test can watch and kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grids import FAULTS, Grid


@pytest.fixture
def grid(tmp_path: Path, new_database: Callable[[Path], None]) -> Iterator[Callable[..., Grid]]:
    """Return a function that starts `python -m runner -m ARGUMENTS`; faults by seed: {1: "raise"}."""
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(FAULTS)
    grids: list[Grid] = []

    def start(
        *arguments: str,
        faults: dict[int, str] | None = None,
        folder: str = "work",
        multirun: bool = True,
        database: bool = True,
        files: dict[str, str] | None = None,
        **environment: str,
    ) -> Grid:
        if faults:
            environment["PYTHONPATH"] = str(tmp_path / "faults")
            environment["FAULTS"] = ",".join(f"{seed}={fault}" for seed, fault in faults.items())
        if database and "tracking=none" not in arguments and not (tmp_path / folder / "outputs").exists():
            new_database(tmp_path / folder / "outputs" / "mlflow.db")
        for name, text in (files or {}).items():
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(text)
        grids.append(Grid(tmp_path / folder, ["-m", *arguments] if multirun else list(arguments), environment))
        return grids[-1]

    yield start
    for started in grids:
        started.end()
