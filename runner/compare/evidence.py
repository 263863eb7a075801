"""What a run answered, question by question, read from its folder or from MLflow's artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from runner.compare.data import ABSENT, Answers, Flip, Flips, NotPaired, Question, Run
from runner.compare.runs import download
from runner.core.progress import Progress

if TYPE_CHECKING:
    from runner.compare.runs import Client


SAMPLES = "samples.jsonl"
TEXT_END = 400  # characters: the answer stands at the end
FETCHED_AT_ONCE = 8  # most of the time goes into waiting; more would crowd out the server's other users


class Evidence:
    """Reads which questions a run solved; keeps the answers of baselines, as many runs are compared with them."""

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
        """Return which questions were solved, from the first file that agrees with the logged counts."""
        if run.parts:
            every = [self.of(part) for part in run.parts]
            return Answers(
                {question: right for answers in every for question, right in answers.solved.items()},
                {question: prompt for answers in every for question, prompt in answers.prompts.items()},
            )
        why = "is neither in its folder nor in MLflow"
        for path in self.files(run, SAMPLES):
            answers = read_answers(path)
            if answers is not None and (sum(answers.solved.values()), len(answers.solved)) == run.score:
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
        """Yield the file from the run's folder, from that folder beside a moved database, and from MLflow."""
        yield from self._here(run, name)
        fetched = self._download(run, name)
        if fetched is not None:
            yield fetched

    def fetch(self, runs: Iterable[Run]) -> None:
        """Fetch the samples that lie in no folder here from MLflow, several at a time."""
        parts = [part for run in runs for part in run.parts or [run]]
        missing = [run for run in parts if run.score and not any(self._here(run, SAMPLES))]
        if missing:
            with Progress(len(missing), "fetching") as bar, ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
                for _ in pool.map(lambda run: self._download(run, SAMPLES), missing):
                    bar.advance(1)

    def _download(self, run: Run, name: str) -> Path | None:
        key = run.run_id, name
        if key not in self._fetched:
            self._fetched[key] = download(self.client, run.run_id, name, self.scratch / run.run_id)
        return self._fetched[key]

    def _here(self, run: Run, name: str) -> Iterator[Path]:
        folders = [Path(run.folder)] if run.folder else []
        folders.append(self.output_dir / "jobs" / run.job_id)
        place = urlsplit(run.artifacts)
        if place.scheme in ("", "file") and place.path:  # a local folder, perhaps of another machine
            folders.append(Path(unquote(place.path)))
        yield from (folder / name for folder in dict.fromkeys(folders) if (folder / name).is_file())


def read_answers(path: Path) -> Answers | None:
    """Return whether each scored question was solved; None when a line is not a sample."""
    found: dict[int, tuple[Question, bool, str | None]] = {}  # the later of two lines with one index counts
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


def find_flips(run: Run, base: Run, evidence: Evidence, most: int | None = None) -> Flips:
    """Return the questions that only one of the two solved: at most `most` lost ones and as many won ones."""
    ours, theirs = evidence.of(run).solved, evidence.of_baseline(base).solved
    lost = sorted(question for question, solved in ours.items() if theirs[question] and not solved)
    won = sorted(question for question, solved in ours.items() if solved and not theirs[question])
    shown = lost[:most] + won[:most]
    our_words, their_words = words(run, set(shown), evidence), words(base, set(shown), evidence)
    questions = [Flip(*question, our_words[question], their_words[question]) for question in shown]
    both_right = sum(solved and theirs[question] for question, solved in ours.items())
    both_wrong = len(ours) - both_right - len(won) - len(lost)
    return Flips(run.job_id, base.job_id, questions, len(won), len(lost), both_right, both_wrong)


def words(run: Run, wanted: set[Question], evidence: Evidence) -> dict[Question, dict[str, str]]:
    """Return what a run said to some questions: verdict, extracted answer, and the end of its text."""
    found: dict[Question, dict[str, str]] = {}
    for part in run.parts or [run]:
        extractor = part.value("task.extractor") or ""
        with evidence.source(part).open(encoding="utf-8") as lines:
            for line in lines:
                sample = json.loads(line)
                question = (sample["index"], sample.get("question"), sample.get("gold"))
                if question in wanted:
                    found[question] = _side(sample, extractor)
    return found


def _side(sample: dict[str, Any], extractor: str) -> dict[str, str]:
    text = sample.get("text", "")
    extracted = sample.get("extracted") or {}
    answer = extracted.get(extractor, next(iter(extracted.values()), None))
    return {
        "verdict": sample["verdict"],
        "answer": ABSENT if answer is None else answer,
        "text": text if len(text) <= TEXT_END else "…" + text[-TEXT_END:],
    }
