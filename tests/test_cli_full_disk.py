"""A full disk is found before anything is loaded."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import mount_tmpfs


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    mount_tmpfs(folder, "size=256k")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_is_an_error_before_anything_is_loaded(
    runner: Callable[..., Any], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("runner_engine.models.base_loading.load_base_model", load)
    (small_disk / "other").write_bytes(bytes(220 * 1024))
    for tracking in ("tracking=none", "tracking=sqlite"):
        done = runner("task.limit=2", tracking, f"output_dir={small_disk}")
        assert done.code == 2
        assert f"error: output_dir={small_disk}: the disk is full: " in done.err
    assert not [*small_disk.glob("**/samples.jsonl"), *small_disk.glob("mlflow.db*")]
    (small_disk / "other").unlink()
    # room for the answers, and none for a new database
    done = runner("task.limit=2", f"output_dir={small_disk}")
    assert (done.code, "tracking.uri=" in done.err, "the disk is full" in done.err) == (2, True, True)
    grid = runner("-m", "task.limit=2,3", f"output_dir={small_disk}")
    assert (grid.code, grid.err.count("the disk is full") > 0) == (2, True)
