"""Commands that run in the test's process leave nothing to the tests that follow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opened_files import opened


@pytest.mark.thorough
def test_databases_whose_files_are_gone_are_closed(runner: Callable[..., Any], tmp_path: Path) -> None:
    """MLflow itself closes none before the process ends."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        assert runner("-m", "model=stub", "task.limit=1", "print=none", "seed=1,2", cwd=folder).code == 0
        if folder == first:
            assert opened(first), "the control"
            shutil.rmtree(first)
    assert not opened(first)
