"""What is kept in the user's cache: read as it was written, found out again if damaged, removed
when nobody uses it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runner_base import user_cache

OLD_S = (user_cache.UNUSED_DAYS + 1) * user_cache.DAY_S


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "runner"
    folder.mkdir()
    return folder


def aged(file: Path, seconds: float) -> Path:
    """Make a file look as if it was last used so long ago."""
    file.touch()
    os.utime(file, (time.time() - seconds,) * 2)
    return file


def test_what_was_kept_is_read_and_what_is_damaged_is_nothing(cache: Path) -> None:
    file = cache / "trials-1.json"
    assert user_cache.read_cache_file(file) == {}
    assert user_cache.write_cache_file(file, {"heads": [1, None]})
    assert user_cache.read_cache_file(file) == {"heads": [1, None]}
    user_cache.write_cache_file(cache / "products-1.json", {"seconds": {4: 0.5, 16: 0.25}})
    assert user_cache.read_cache_file(cache / "products-1.json") == {"seconds": {"4": 0.5, "16": 0.25}}
    for damaged in ("", "{", "[]", '{"heads": [2]}', file.read_text().replace("1", "2", 1)):
        file.write_text(damaged)
        assert user_cache.read_cache_file(file) == {}, damaged


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not user_cache.write_cache_file(tmp_path / "file" / "trials-1.json", {})


def test_what_nobody_uses_goes_when_something_new_is_kept(cache: Path) -> None:
    unused = [aged(cache / name, OLD_S) for name in ("kernels-1.so", "kernels-1.SHARED.o", "trials-1.json")]
    others = [aged(cache / name, OLD_S) for name in ("random_weights", "products.lock", "notes.json")]
    used = aged(cache / "trials-2.json", OLD_S)
    user_cache.mark_file_used(used)
    user_cache.write_cache_file(cache / "trials-3.json", {})
    assert [file for file in unused if file.exists()] == []
    assert all(file.exists() for file in (*others, used, cache / "trials-3.json"))


def test_what_is_read_is_in_use(cache: Path) -> None:
    file = cache / "names-1.json"
    user_cache.write_cache_file(file, {"names": []})
    aged(file, OLD_S)
    user_cache.read_cache_file(file)
    user_cache.remove_unused_cache_files()
    assert file.exists()


def test_a_use_is_noted_at_most_once_a_day(cache: Path) -> None:
    file = aged(cache / "kernels-1.so", user_cache.DAY_S / 2)
    before = file.stat().st_mtime
    user_cache.mark_file_used(file)
    assert file.stat().st_mtime == before
    user_cache.mark_file_used(cache / "nothing")
