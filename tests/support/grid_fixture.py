"""The fixture `grid`: `python -m runner -m …` in a process that a test can watch and kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from grids import FAULTS, Grid


@pytest.fixture
def grid(tmp_path: Path, new_database: Callable[[Path], None]) -> Iterator[Callable[..., Grid]]:
    """Return a function that starts `python -m runner -m ARGUMENTS`; faults by seed: {1:
    "raise"}."""
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
        name: str = "",
        within: Sequence[str] = (),
        place: Path = tmp_path,
        **environment: str,
    ) -> Grid:
        if faults:
            environment["PYTHONPATH"] = str(tmp_path / "faults")
            environment["FAULTS"] = ",".join(f"{seed}={fault}" for seed, fault in faults.items())
        if database and "tracking=none" not in arguments and not (place / folder / "outputs").exists():
            new_database(place / folder / "outputs" / "mlflow.db")
        for file, text in (files or {}).items():
            (place / folder).mkdir(exist_ok=True)
            (place / folder / file).write_text(text)
        arguments = ("-m", *arguments) if multirun else arguments
        grids.append(Grid(place / folder, list(arguments), environment, name, list(within)))
        return grids[-1]

    yield start
    for started in grids:
        started.end()
