"""What several tests of agents share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from compared_stores import rows, show, store
from teams import Starts

from runner.sandbox.sandbox import Sandbox

__all__ = ["rows", "show", "store"]


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """Return a sandbox with all that this machine has."""
    return Sandbox()


@pytest.fixture
def again(tmp_path: Path) -> Iterator[Starts]:
    """Return a job's folder, to be opened as the next start would."""
    folder = tmp_path / "job"
    folder.mkdir()
    starts = Starts(folder)
    yield starts
    starts.recorder.close()
