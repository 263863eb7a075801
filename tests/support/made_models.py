"""Makers' packages in environments of their own, after `make makers`, and what they have made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.options.quantize.recipes import KINDS, Recipe

ROOT = Path(__file__).resolve().parents[2]
# word problems that are no evaluation's, in groups that fit the embedded model
CALIBRATED = (
    "task.calibration=embedded",
    "task.sequences=16",
    "task.sequence_tokens=128",
    "task.group_size=64",
)


def python_of(recipe: str) -> Path:
    """Return the Python of the environment that `make makers` makes for a recipe."""
    return ROOT / ".makers" / KINDS[Recipe(recipe)].maker.name / "bin" / "python"


def with_maker(*values: Any) -> Any:
    """A case of a test whose first value is a recipe, skipped where its package is not here."""
    recipe = values[0]
    is_here = KINDS[Recipe(recipe)].maker.name == "torchao" or python_of(recipe).exists()
    why = f"its package is not installed here: make makers RECIPE={recipe}"
    return pytest.param(*values, marks=pytest.mark.skipif(not is_here, reason=why), id=str(recipe))


def record_of(folder: Path) -> dict[str, Any]:
    """Return the record of the only job in a folder."""
    (path,) = folder.glob("outputs/jobs/quantize-*/result.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def made_by(runner: Callable[..., Any], folder: Path, *keys: str) -> tuple[Path, dict[str, Any]]:
    """Let a job make a model; return its place, and the job's result."""
    folder.mkdir(parents=True, exist_ok=True)
    done = runner("task=quantize", "tracking=none", *keys, cwd=folder)
    assert done.code == 0, done.err
    result: dict[str, Any] = record_of(folder)["result"]
    return Path(result["facts"]["made"]), result
