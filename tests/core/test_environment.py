"""`.env`: the environment has precedence over it, and its values are never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.core import environment
from runner.core.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("OF_THE_FILE", "OF_BOTH", "API_KEY"):
        monkeypatch.setenv(name, "before")  # so that it is restored
        monkeypatch.delenv(name)
    return tmp_path


def test_the_environment_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment.read()  # without a file there is nothing to read
    (folder / ".env").write_text("# a comment\nOF_THE_FILE='two words'\nexport OF_BOTH=file\n")
    monkeypatch.setenv("OF_BOTH", "environment")
    environment.read()
    assert (os.environ["OF_THE_FILE"], os.environ["OF_BOTH"]) == ("two words", "environment")


def test_a_file_that_cannot_be_read_is_one_message_without_its_content(folder: Path) -> None:
    (folder / ".env").write_bytes(b"API_KEY=sk-\xff\xfe-secret")
    with pytest.raises(ConfigError, match=r"^\.env cannot be read: give UTF-8 text") as refused:
        environment.read()
    assert "secret" not in repr(refused.value)
    (folder / ".env").unlink()
    (folder / ".env").mkdir()  # a virtual environment
    environment.read()
