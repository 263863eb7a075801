"""Temporary folders: nothing behind a link, of another user or of a living process is removed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner_base.temp_folders import (
    RANDOM_BYTES,
    create_temporary_folder,
    remove_abandoned_folders,
    remove_folder,
    require_folder_owned_by_user,
)

RANDOM = "0" * 2 * RANDOM_BYTES
LEFT = f".model.{RANDOM}.unfinished"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder with a file, which must stay."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "precious").write_text("kept")
    return folder


def test_a_temporary_folder_is_empty_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with create_temporary_folder(tmp_path, ".model.", ".unfinished") as folder:
        assert [*folder.iterdir()] == []
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "part").mkdir()
        (folder / "part" / "file").write_text("text")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("remove", [remove_folder, require_folder_owned_by_user])
def test_a_link_is_refused_and_its_folder_stays(
    tmp_path: Path, victim: Path, remove: Callable[[Path], None]
) -> None:
    link = tmp_path / LEFT
    link.symlink_to(victim)
    with pytest.raises(OSError, match="link|Not a directory"):
        remove(link)
    assert (victim / "precious").read_text() == "kept"
    assert link.is_symlink()


def test_abandoned_folders_are_removed_but_no_link_and_no_other_name(tmp_path: Path, victim: Path) -> None:
    left = tmp_path / LEFT
    left.mkdir()
    (left / "inner").symlink_to(victim)
    left.chmod(0)
    link = tmp_path / LEFT.replace("0", "1")
    link.symlink_to(victim)
    others = [tmp_path / name for name in (".model.unfinished", f".model.b.{RANDOM}.unfinished")]
    for other in others:
        other.mkdir()
    (tmp_path / LEFT.replace("0", "2")).write_text("a file")
    with create_temporary_folder(tmp_path, ".model.", ".unfinished") as held:
        assert remove_abandoned_folders(tmp_path, ".model.", ".unfinished") == [held]
        assert held.is_dir()
    assert not left.exists()
    assert all(other.is_dir() for other in others)
    assert link.is_symlink()
    assert [path.name for path in victim.iterdir()] == ["precious"]


def test_a_folder_that_was_exchanged_for_a_link_is_not_removed(tmp_path: Path, victim: Path) -> None:
    with create_temporary_folder(tmp_path, "own-") as folder:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(victim)
    assert (victim / "precious").read_text() == "kept"


def test_a_folder_that_was_exchanged_for_another_one_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening and the removal, another program may do it."""
    folder = tmp_path / LEFT
    folder.mkdir()
    open_folder = os.open

    def open_and_exchange(path: Path, flags: int) -> int:
        monkeypatch.undo()
        opened = open_folder(path, flags)
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        (folder / "precious").write_text("kept")
        return opened

    monkeypatch.setattr(os, "open", open_and_exchange)
    remove_folder(folder)
    assert (folder / "precious").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_folders_of_other_users_stay(tmp_path: Path) -> None:
    other = tmp_path / LEFT
    other.mkdir()
    os.chown(other, 12345, -1)
    assert remove_abandoned_folders(tmp_path, ".model.", ".unfinished") == []
    for refuse in (remove_folder, require_folder_owned_by_user):
        with pytest.raises(PermissionError, match=f"{LEFT} .* (another|current) user$"):
            refuse(other)
    assert other.is_dir()


def test_a_killed_process_releases_its_folder(tmp_path: Path) -> None:
    code = (
        "import os, pathlib\nfrom runner_base.temp_folders import create_temporary_folder\n"
        f"with create_temporary_folder(pathlib.Path({str(tmp_path)!r}), 'own-'):\n    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len([*tmp_path.iterdir()]) == 1
    assert remove_abandoned_folders(tmp_path, "own-") == []
    assert [*tmp_path.iterdir()] == []
