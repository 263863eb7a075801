"""`.env`: the environment has precedence over it, and its values are never shown."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from raising import raises

from runner_base import environment
from runner_base.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["runner"])
    for name in (*environment.NAMES, "API_KEY", "MY_OWN_KEY", *HOSTILE):
        monkeypatch.setenv(name, "before")  # so that it is restored
        monkeypatch.delenv(name)
    return tmp_path


HOSTILE = (
    "CC", "CFLAGS", "RUNNER_CFLAGS", "RUNNER_NATIVE", "XDG_CACHE_HOME", "LD_PRELOAD", "PYTHONPATH", "PATH_OF_MINE",
    "HF_ENDPOINT", "HF_HOME", "HTTPS_PROXY", "MASTER_ADDR", "RAY_ADDRESS", "REQUESTS_CA_BUNDLE", "HYDRA_FULL_ERROR",
)  # fmt: skip


def test_the_environment_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment.load_dotenv()  # without a file there is nothing to read
    (folder / ".env").write_text(
        "# a comment\nSTUDENT_LORA_DIR='two words'\nexport BASE_URL=file\nMY_OWN_KEY=sk-1\n"
    )
    monkeypatch.setenv("BASE_URL", "environment")
    environment.load_dotenv()
    assert (os.environ["STUDENT_LORA_DIR"], os.environ["BASE_URL"]) == ("two words", "environment")
    assert os.environ["MY_OWN_KEY"] == "sk-1", "model.key_variable names it"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_sets_nothing_else(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".env").write_text(f"{name}=/tmp/evil-S3CRET\nSTUDENT_FORCE_CPU=1\n")
    environment.load_dotenv()
    assert name not in os.environ
    assert os.environ["STUDENT_FORCE_CPU"] == "1"
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f".env: ignored {name}. ")
    assert ".env.example" in err
    assert "S3CRET" not in err


def test_a_file_names_a_store_that_is_a_file_and_no_server(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for uri in (
        "http://evil.example",
        "HTTPS://evil.example",
        "postgresql://evil/x",
        "databricks",
        "evil-plugin://x",
    ):
        (folder / ".env").write_text(f"MLFLOW_TRACKING_URI={uri}\nCC=evil\n")
        environment.load_dotenv()
        assert "MLFLOW_TRACKING_URI" not in os.environ
        assert capsys.readouterr().err.startswith(".env: ignored MLFLOW_TRACKING_URI (of a server), CC. ")
    (folder / ".env").write_text("MLFLOW_TRACKING_URI=sqlite:///here.db\n")
    environment.load_dotenv()
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///here.db"


def test_a_file_sends_no_variable_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVATE", "S3CRET")
    (folder / ".env").write_text("BASE_URL=http://evil.example/${PRIVATE}\n")
    environment.load_dotenv()
    assert os.environ["BASE_URL"] == "http://evil.example/${PRIVATE}"


def test_where_nothing_runs_nothing_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".env").write_text("CC=evil\n")
    monkeypatch.setattr(sys, "argv", ["runner", "-sc", "query=bash"])
    environment.load_dotenv()
    assert "CC" not in os.environ
    assert capsys.readouterr() == ("", "")


def test_the_example_lists_what_is_read() -> None:
    example = Path(__file__).parents[2] / ".env.example"
    listed = set(re.findall(r"^# ([A-Z0-9_]+)=", example.read_text(), re.MULTILINE))
    assert {name for name in listed if not name.endswith("_KEY")} == set(environment.NAMES)


def test_a_file_that_cannot_be_read_is_one_message_without_its_content(folder: Path) -> None:
    (folder / ".env").write_bytes(b"API_KEY=sk-\xff\xfe-secret")
    with raises(ConfigError, "damaged") as refused:
        environment.load_dotenv()
    assert "secret" not in repr(refused.value)
    (folder / ".env").unlink()
    (folder / ".env").mkdir()  # a virtual environment
    environment.load_dotenv()
