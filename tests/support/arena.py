"""A folder for hostile files, and what is looked for after each command that reads them."""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus

from runner.__main__ import message_of
from runner.compare import command
from runner.compat import convert_lora
from runner.store import sync

LIMIT_MIB = 250  # what a command may take for a hostile file, beyond what the program itself takes
GSM8K = ("task.limit=1", "generation.max_new_tokens=2")
MODEL = ("model=auto", "model.name=model", "model.device=cpu")

Start = Callable[..., Any]
Run = Callable[[list[str]], None]


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_size for path in sorted(folder.rglob("*"))}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Arena:
    """A folder to work in, inside one that nothing may be written to."""

    def __init__(self, outside: Path, run_job: Run, start: Start) -> None:
        self.outside, self.folder = outside, outside / "work"
        self.folder.mkdir()
        self.mark = self.folder / corpus.MARK
        (self.outside / "canary").write_text("untouched")
        self.scratch = self.folder / "scratch"
        self._run_job, self._start = run_job, start

    def elsewhere(self) -> dict[str, int]:
        return {path: size for path, size in snapshot(self.outside).items() if not path.startswith(str(self.folder))}

    def give(self, *arguments: str, module: str = "runner", fails: bool | None = True) -> str:
        """Run a command in the folder and return its error; after looking for what must not be."""
        before, memory = self.elsewhere(), peak_mib()
        said = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if module == "runner":
                    self._run_job(list(arguments))
                elif module == "convert":
                    convert_lora.convert(convert_lora.parser().parse_args(arguments))
                elif module == "compare":
                    command.compare(command.parser().parse_args(arguments), self.scratch)
                else:
                    sync.sync(sync.parser().parse_args(arguments))
        except SystemExit as error:
            said = str(error)
        except Exception as error:
            said = message_of(error) or ""
            if not said:
                raise
        assert fails is None or bool(said) == fails, said
        assert "Traceback" not in said
        assert not self.mark.exists(), "code of the corpus ran"
        assert self.elsewhere() == before, "written outside of its folder"
        assert peak_mib() - memory < LIMIT_MIB, said
        return said

    def start(self, *arguments: str, code: int) -> str:
        """The same as a process."""
        before = self.elsewhere()
        done = self._start(*arguments, "tracking=none", cwd=self.folder, database=False)
        said: str = done.out + done.err
        assert "Traceback" not in said, said[-3000:]
        assert done.code == code, (done.code, said[-3000:])
        assert not self.mark.exists(), "code of the corpus ran"
        assert self.elsewhere() == before, "written outside of its folder"
        return said
