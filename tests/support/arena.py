"""A folder for hostile files, and the checks after each command that reads them: the fixtures
`arena` and `run_job`."""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import corpus
import pytest

from runner.__main__ import format_user_error
from runner.config.choices import CONF
from runner.config.compose import create_composer
from runner.config.hydra import split_job_config_and_choices, to_runner_config
from runner.run import run
from runner.tracking import sync
from runner_compare import command
from runner_compare.options import create_parser

LIMIT_MIB = 250  # the memory that a command may take for a hostile file, beyond that of the program
GSM8K = ("task.limit=1", "generation.max_new_tokens=2")
MODEL = ("model=auto", "model.name=model", "model.device=cpu")

Start = Callable[..., Any]
Run = Callable[[list[str]], None]


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_size for path in sorted(folder.rglob("*"))}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Arena:
    """A working folder inside a folder that must not change."""

    def __init__(self, outside: Path, run_job: Run, start: Start) -> None:
        self.outside, self.folder = outside, outside / "work"
        self.folder.mkdir()
        self.mark = self.folder / corpus.MARK
        (self.outside / "canary").write_text("untouched")
        self.scratch = self.folder / "scratch"
        self._run_job, self._start = run_job, start

    def elsewhere(self) -> dict[str, int]:
        return {
            path: size
            for path, size in snapshot(self.outside).items()
            if not path.startswith(str(self.folder))
        }

    def give(self, *arguments: str, module: str = "runner", fails: bool | None = True) -> str:
        """Run a command in the folder, check what must not happen, and return its error."""
        if module == "runner":
            return self.refusal(partial(self._run_job, list(arguments)), fails)
        if module == "compare":
            return self.refusal(
                lambda: command.run_comparison(create_parser().parse_args(arguments), self.scratch), fails
            )
        return self.refusal(
            lambda: sync.sync_finished_jobs_to_mlflow(sync.create_parser().parse_args(arguments)), fails
        )

    def refusal(self, work: Callable[[], object], fails: bool | None = True) -> str:
        """Do something with the files in the folder, check what must not happen, and return its
        error."""
        before, memory = self.elsewhere(), peak_mib()
        message = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                work()
        except SystemExit as error:
            message = str(error)
        except Exception as error:
            message = format_user_error(error) or ""
            if not message:
                raise
        assert fails is None or bool(message) == fails, message
        assert "Traceback" not in message
        assert not self.mark.exists(), "code of the corpus ran"
        assert self.elsewhere() == before, "written outside of its folder"
        assert peak_mib() - memory < LIMIT_MIB, message
        return message

    def start(self, *arguments: str, code: int) -> str:
        """Do the same in a process of its own; return its output."""
        before = self.elsewhere()
        done = self._start(*arguments, "tracking=none", cwd=self.folder, database=False)
        output: str = done.out + done.err
        assert "Traceback" not in output, output[-3000:]
        assert done.code == code, (done.code, output[-3000:])
        assert not self.mark.exists(), "code of the corpus ran"
        assert self.elsewhere() == before, "written outside of its folder"
        return output


@pytest.fixture(scope="module")
def run_job(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that composes and runs one job; it runs one here, so that all libraries are
    imported."""

    def call(arguments: list[str]) -> None:
        with chdir(CONF):  # the combinations of choices are kept for each working folder
            composed = create_composer().compose([*arguments, "tracking=none"])
        record = run(to_runner_config(*split_job_config_and_choices(composed)))
        if record.error:
            raise SystemExit(record.error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warm = f"output_dir={tmp_path_factory.mktemp('warm')}"
        call(["model=embedded", "lora=pth", "lora.path=embedded", *GSM8K, warm])
        call(["model=embedded", "lora=peft", "lora.path=embedded", *GSM8K, warm])
    return call


@pytest.fixture
def arena(tmp_path: Path, run_job: Run, runner: Start, monkeypatch: pytest.MonkeyPatch) -> Arena:
    made = Arena(tmp_path, run_job, runner)
    monkeypatch.chdir(made.folder)
    return made
