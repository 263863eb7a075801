"""Output folders of odd names, and what lies where a job's files belong: one message or a sound run, no endless wait."""

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
from runner.config.task import Gsm8kConfig
from runner.core.errors import ConfigError, RunnerError
from runner.run import run
from runner.store.jobs import read_samples

Make = Callable[..., RunnerConfig]
NAMES = ("a\nb\x01\x1b[2J", "ä 你好 e\u0301 \u202e", "d/" * 60 + "e", " --x 'q' \"q\" ", "%%41%2F%zz%s;b&c=d+e,f",
         "a?mode=memory#x", ":memory:", "a\\b${x}{0}[a]*`id`")  # fmt: skip
WAIT_S = 60  # for a command that opens a pipe, and so never ends


def late(number: int, frame: FrameType | None) -> None:
    raise AssertionError("it waits for ever")


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(WAIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_all_of_a_job_lies_in_the_folder_that_was_named(
    make_config: Make, tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    signal.alarm(5 * WAIT_S)
    for number, name in enumerate(NAMES):
        (at := tmp_path / str(number)).mkdir()
        new_database(at / name / "mlflow.db")
        config = make_config(output_dir=str(at / name), tracking=TrackingConfig())
        with warnings.catch_warnings():  # of SQLAlchemy, when MLflow first uses it
            warnings.simplefilter("ignore")
            assert [run(config).from_ledger for _ in range(2)] == [False, True], name
        assert [path.name for path in at.iterdir()] == [name.split("/")[0]], (
            "nothing in a folder that is called almost so"
        )
        with closing(sqlite3.connect(at / name / "mlflow.db")) as database:
            assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
        assert len(list((at / name / "mlartifacts").glob("*/artifacts/samples.jsonl"))) == 1, name


@pytest.mark.parametrize("name", ["a\0b", "a\udcff", "\ud800"], ids=repr)
def test_what_no_folder_can_be_called(make_config: Make, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="output_dir=.*no UTF-8 text and no name of a file"):
        make_config(output_dir=str(tmp_path / name))


def test_texts_that_no_file_takes_are_refused_by_their_keys(make_config: Make) -> None:
    """The system gives bytes of a command line that are no UTF-8 to Python as halves of characters."""
    with pytest.raises(ConfigError, match=r"^task\.instruction='a\\udcff': "):
        make_config(task=Gsm8kConfig(instruction="a\udcff"))


def put(path: Path, kind: str) -> None:
    """Put what is no file in its place."""
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


def refusal(config: RunnerConfig) -> str | None:
    """What a job is refused with; None where it is done."""
    try:
        run(config)
    except RunnerError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_where_a_job_keeps_one(make_config: Make, tmp_path: Path, name: str) -> None:
    outcomes = {}
    for kind in KINDS:
        config = make_config(output_dir=str(tmp_path / kind.replace("/", "")))
        folder = Path(run(config).output_dir)
        truth = {index: sample.text for index, sample in read_samples(folder / "samples.jsonl").items()}
        if name != "result.json":
            (folder / "result.json").unlink()
        put(folder / name, kind)
        said = refusal(config)
        assert said is None or str(folder) in said, "it says where"
        if said is None:
            found = {index: sample.text for index, sample in read_samples(folder / "samples.jsonl").items()}
            assert found == truth
        outcomes[kind] = "done" if said is None else "refused"
    assert all(outcomes[kind] == "refused" for kind in KINDS if kind.startswith("/dev") or kind == "pipe"), outcomes


def test_pipes_where_an_output_folder_keeps_notes(
    make_config: Make, tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    for name, told in ((".place", ""), (".hashes.json", ""), (".mlflow.lock", "it is a pipe")):
        folder = tmp_path / name
        new_database(folder / "mlflow.db")
        os.mkfifo(folder / name)
        model = {} if name != ".hashes.json" else {"model": _embedded()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = refusal(make_config(output_dir=str(folder), tracking=TrackingConfig(), **model))
        assert told in (said or ""), said
        assert bool(told) == bool(said)


def _embedded() -> object:
    from runner.config.model import LocalModelConfig

    return LocalModelConfig(name="embedded", device="cpu")
