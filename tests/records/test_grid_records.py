"""Records of grids on disk: what is damaged is left out, and configs are split without loss."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from runner.records import grid_records
from runner.records.grid_records import GridRecord

GRID = GridRecord("a" * 32, "seed=1,2", 5, "FINISHED", [{"job_id": "gsm8k-1"}, {"job_id": None}])


def test_the_last_started_comes_first_and_damaged_ones_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = replace(GRID, grid="b" * 32, started_ms=3)
    for record in (older, GRID):
        grid_records.write_grid_record(tmp_path, record)
    folder = tmp_path / grid_records.FOLDER
    damaged: tuple[Any, ...] = (
        "{",
        "[]",
        json.dumps({**asdict(GRID), "jobs": [{}]}),
        json.dumps({**asdict(GRID), "config": "x"}),
        json.dumps({**asdict(GRID), "started_ms": "soon"}),
    )
    for number, text in enumerate(damaged):
        (folder / f"{number}.json").write_text(text)
    os.mkfifo(folder / "pipe.json")
    assert grid_records.read_grid_records(tmp_path) == [GRID, older]
    assert caplog.text.count("is damaged") == len(damaged)
    assert GRID.job_ids == ["gsm8k-1"]


def test_configs_are_split_into_what_agrees_and_what_does_not(make_config: Callable[..., Any]) -> None:
    configs = [make_config(seed=seed) for seed in (1, 2)]
    common, own = grid_records.separate_common_config_keys([configs[0], None, configs[1]])
    assert own == [{"seed": "1"}, {}, {"seed": "2"}]
    assert common["model.name"]
    assert "seed" not in common
