"""What a run answered, question by question, from wherever its samples are: its folder, or MLflow's artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from runner.compare import store
from runner.compare.data import Answers, NotPaired, Question, Run
from runner.core.progress import Progress

if TYPE_CHECKING:
    from runner.compare.store import Client

SAMPLES = "samples.jsonl"
FETCHED_AT_ONCE = 8  # a server's answer is mostly waited for; more would crowd out its other users


class Evidence:
    """Reads which questions a run solved; keeps the baselines, which many runs are compared with."""

    def __init__(self, client: Client, output_dir: Path, scratch: Path) -> None:
        self.client, self.output_dir, self.scratch = client, output_dir, scratch
        self._baselines: dict[str, Answers] = {}
        self._sources: dict[str, Path] = {}  # where the answers of a run were found
        self._fetched: dict[tuple[str, str], Path | None] = {}  # by run and file: what MLflow had

    def of_baseline(self, run: Run) -> Answers:
        """Return the baseline's answers, read once."""
        if run.run_id not in self._baselines:
            self._baselines[run.run_id] = self.of(run)
        return self._baselines[run.run_id]

    def of(self, run: Run) -> Answers:
        """Return whether each question was solved, as the first source that agrees with the log says."""
        if run.parts:
            every = [self.of(part) for part in run.parts]
            return Answers(
                {question: right for answers in every for question, right in answers.solved.items()},
                {question: prompt for answers in every for question, prompt in answers.prompts.items()},
            )
        n, correct = run.metrics.get("n"), run.metrics.get("correct")
        why = "is neither in its folder nor in MLflow"
        for path in self.files(run, SAMPLES):
            answers = read_answers(path)
            if answers is not None and len(answers.solved) == n and sum(answers.solved.values()) == correct:
                self._sources[run.run_id] = path
                return answers
            why = "disagrees with its logged n and correct"
        raise NotPaired(f"no evidence: {SAMPLES} of {run.job_id} {why}")

    def source(self, run: Run) -> Path:
        """Return the file that the answers of a run came from."""
        if run.run_id not in self._sources:
            self.of(run)
        return self._sources[run.run_id]

    def files(self, run: Run, name: str) -> Iterator[Path]:
        """Yield a file of the run's own folder, of the one that was moved along with the database, of MLflow's."""
        yield from self._here(run, name)
        key = run.run_id, name
        if key not in self._fetched:
            self._fetched[key] = store.download(self.client, run.run_id, name, self.scratch / run.run_id)
        fetched = self._fetched[key]
        if fetched is not None:
            yield fetched

    def fetch(self, runs: Iterable[Run]) -> None:
        """Fetch the samples that lie in no folder here from MLflow, several at a time."""
        parts = [part for run in runs for part in run.parts or [run]]
        missing = [run for run in parts if "correct" in run.metrics and not any(self._here(run, SAMPLES))]

        def fetched(run: Run) -> Path | None:
            return store.download(self.client, run.run_id, SAMPLES, self.scratch / run.run_id)

        if missing:
            with Progress(len(missing), "fetching") as bar, ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
                for run, path in zip(missing, pool.map(fetched, missing), strict=True):
                    self._fetched[run.run_id, SAMPLES] = path
                    bar.advance(1)

    def _here(self, run: Run, name: str) -> Iterator[Path]:
        folders = [Path(run.folder)] if run.folder else []
        folders.append(self.output_dir / "jobs" / run.job_id)
        place = urlsplit(run.artifacts)
        if place.scheme in ("", "file") and place.path:  # a folder of this machine, or of another that is not here
            folders.append(Path(unquote(place.path)))
        yield from (folder / name for folder in dict.fromkeys(folders) if (folder / name).is_file())


def read_answers(path: Path) -> Answers | None:
    """Return whether each scored question was solved; None when a line is not a sample."""
    found: dict[int, tuple[Question, bool, str | None]] = {}  # of two lines with one index the later counts
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                sample = json.loads(line)
                if "verdict" in sample:
                    index = sample["index"]
                    question = (index, sample["question"], sample["gold"])
                    found[index] = question, sample["verdict"] == "correct", sample.get("prompt_sha256")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    solved = {question: right for question, right, _ in found.values()}
    return Answers(solved, {question: prompt for question, _, prompt in found.values()})
