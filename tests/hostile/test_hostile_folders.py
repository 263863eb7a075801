"""Output folders with odd names, and pipes, links and devices in place of a job's files: one
message or a correct job."""

from __future__ import annotations

import os
import signal
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType

import pytest

from runner.config.root import RunnerConfig, TrackingConfig
from runner.records.jobs import read_samples
from runner.run import run
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError, RunnerError

pytestmark = pytest.mark.smoke(3)
Make = Callable[..., RunnerConfig]
NAMES = ("a\nb\x01\x1b[2J", "ä 你好 e\u0301 \u202e", "d/" * 60 + "e", " --x 'q' \"q\" ", "%%41%2F%zz%s;b&c=d+e,f",
         "a?mode=memory#x", ":memory:", "a\\b${x}{0}[a]*`id`")  # fmt: skip
WAIT_S = 60  # then a command is waiting for a pipe


def fail(number: int, frame: FrameType | None) -> None:
    raise AssertionError("it waits without end")


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(WAIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_all_files_of_a_job_are_in_the_named_folder(
    make_config: Make, tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    signal.alarm(5 * WAIT_S)
    for number, name in enumerate(NAMES):
        (folder := tmp_path / str(number)).mkdir()
        new_database(folder / name / "mlflow.db")
        config = make_config(output_dir=str(folder / name), tracking=TrackingConfig())
        with warnings.catch_warnings():  # SQLAlchemy's, when MLflow first uses it
            warnings.simplefilter("ignore")
            assert [run(config).from_ledger for _ in range(2)] == [False, True], name
        assert [path.name for path in folder.iterdir()] == [name.split("/")[0]], (
            "nothing in a folder with a similar name"
        )
        with closing(sqlite3.connect(folder / name / "mlflow.db")) as database:
            assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
        assert len(list((folder / name / "mlartifacts").glob("*/artifacts/samples.jsonl"))) == 1, name


@pytest.mark.parametrize("name", ["a\0b", "a\udcff", "\ud800"], ids=repr)
def test_names_that_no_folder_can_have(make_config: Make, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="output_dir=.*must not contain NUL or an unpaired surrogate"):
        make_config(output_dir=str(tmp_path / name))


def test_texts_that_no_file_can_hold_are_rejected_with_their_keys(make_config: Make) -> None:
    """Python represents bytes of a command line that are not UTF-8 as halves of characters."""
    with pytest.raises(ConfigError, match=r"^task\.instruction='a\\udcff': "):
        make_config(task=Gsm8kConfig(instruction="a\udcff"))


def put(path: Path, kind: str) -> None:
    """Replace a file by a folder, a pipe, a link or a device."""
    path.unlink(missing_ok=True)
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nowhere/x")
        case device:
            path.symlink_to(device)


KINDS = ("folder", "pipe", "loop", "dangling", "/dev/zero", "/dev/full", "/dev/null")
FILES = ("samples.jsonl", "result.json", "config.yaml", "log.txt", "measured.json", ".lock", ".begun")


def rejection(config: RunnerConfig) -> str | None:
    """Return the error with which a job is rejected; None if the job runs."""
    try:
        run(config)
    except RunnerError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FILES)
def test_no_regular_file_in_place_of_a_jobs_file(make_config: Make, tmp_path: Path, name: str) -> None:
    outcomes = {}
    for kind in KINDS:
        config = make_config(output_dir=str(tmp_path / kind.replace("/", "")))
        folder = Path(run(config).output_dir)
        truth = {
            index: sample.answer.text for index, sample in read_samples(folder / "samples.jsonl").items()
        }
        if name != "result.json":
            (folder / "result.json").unlink()
        put(folder / name, kind)
        error = rejection(config)
        assert error is None or str(folder) in error, "the error names the folder"
        if error is None:
            texts = {
                index: sample.answer.text for index, sample in read_samples(folder / "samples.jsonl").items()
            }
            assert texts == truth
        outcomes[kind] = "done" if error is None else "rejected"
    assert all(outcomes[kind] == "rejected" for kind in KINDS if kind.startswith("/dev") or kind == "pipe"), (
        outcomes
    )


def test_pipes_in_place_of_an_output_folders_hidden_files(
    make_config: Make, tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    for name, message in ((".place", ""), (".hashes.json", ""), (".mlflow.lock", "it is a pipe")):
        folder = tmp_path / name
        new_database(folder / "mlflow.db")
        os.mkfifo(folder / name)
        model = {} if name != ".hashes.json" else {"model": _embedded()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            error = rejection(make_config(output_dir=str(folder), tracking=TrackingConfig(), **model))
        assert message in (error or ""), error
        assert bool(message) == bool(error)


def _embedded() -> object:
    from runner_engine.settings.model import LocalModelConfig

    return LocalModelConfig(name="embedded", device="cpu")
