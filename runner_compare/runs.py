"""Which store is compared, and a run's answers: from its folder, or fetched from MLflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from runner.recorded_runs.folder_runs import has_records
from runner.store import moved
from runner.store.jobs import read_samples
from runner.store.mlflow_store import Store, store_from_options
from runner.store.stored_runs import download
from runner_base.console import say
from runner_base.errors import ConfigError, EvidenceError, refuse_password
from runner_base.progress import Progress
from runner_base.result import Sample
from runner_compare.data import (
    EXTRACTOR,
    SCORER,
    TEXT_END,
    Answers,
    NotPaired,
    Question,
    QuestionOutcome,
    Run,
    Texts,
    TextScore,
    question_of,
    side_of,
)
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_compare.sample_numbers import read_numbers
from runner_compare.seed_answers import mean_answers
from runner_compare.statistics.likelihoods import units
from runner_compare.statistics.ratios import ratio

Content = TypeVar("Content")

FOLDER = "comparison"  # among the artifacts of the grid's run
SAMPLES = "samples.jsonl"
FETCHED_AT_ONCE = 8  # most of the time is waiting; more would crowd out the server's other users
TOLERANCE = 1e-9  # nats per token by which a file may differ from what was logged: MLflow stores numbers exactly


def store_to_read(output_dir: Path, uri: str | None, experiment: str | None) -> Store | None:
    """Return the store to read, by the rule of all commands; None if only the folder's jobs have recorded anything.

    A missing sqlite file is an error: MLflow would create it.
    """
    if uri:
        refuse_password("--tracking-uri", uri)
    store = store_from_options(output_dir, uri, experiment)
    file = store.file
    if file is not None and not file.exists():
        if uri or not store.is_own:
            raise ConfigError(f"tracking uri {store.shown}: there is no such file")
        if not experiment and has_records(output_dir):
            return None
        raise ConfigError(
            f"no MLflow database at {file}: run something first, or say where it is with --output-dir or --tracking-uri"
        )
    if file is not None and not file.is_file():  # MLflow would try to open it for minutes
        raise ConfigError(f"tracking uri {store.shown}: {file} is not a file, but a database is expected there")
    if store.is_own and (output_dir / moved.PLACE).exists():
        moved.mend(output_dir)
    return store


class SampleReader:
    """Reads which questions a run solved; keeps the answers of baselines, because many runs are compared with them."""

    def __init__(self, client: Any, output_dir: Path, scratch: Path) -> None:
        self.client, self.output_dir, self.scratch = client, output_dir, scratch
        self._baselines: dict[str, Answers] = {}
        self.sources: dict[str, Path] = {}  # by run id: the file that its answers were read from
        self._fetched: dict[tuple[str, str], Path | None] = {}  # by run id and file name; None: not in MLflow

    def of_baseline(self, run: Run) -> Answers:
        """Return the baseline's answers, read once."""
        if run.run_id not in self._baselines:
            self._baselines[run.run_id] = self.of(run)
        return self._baselines[run.run_id]

    def of(self, run: Run) -> Answers:
        """Return which questions a run, or the pooled runs, solved."""
        parts = [self.of_one(part) for part in run.parts or [run]]
        return mean_answers(parts) if run.over_seeds else {key: it for part in parts for key, it in part.items()}

    def of_one(self, run: Run) -> Answers:
        """Return which questions one run solved, from the first intact file that agrees with the logged counts."""
        read = partial(read_answers, stopped_after=run.stopped_after)
        return self.first_intact(run, read, lambda found: _counts(found) == run.score, "n and correct")

    def texts(self, run: Run) -> Texts:
        """Return each text's log-likelihood, from the first intact file that agrees with the logged mean."""

        def agrees(scores: Texts) -> bool:
            likelihoods = units([one.likelihood for one in scores.values()])
            logged = run.metrics[LOG_LIKELIHOOD]
            return bool(likelihoods) and math.isclose(
                ratio([it.nats for it in likelihoods], [it.tokens for it in likelihoods]), logged, abs_tol=TOLERANCE
            )

        return self.first_intact(run, read_texts, agrees, LOG_LIKELIHOOD)

    def numbers(self, run: Run) -> Answers:
        """Return the number of each question that is compared instead of its verdict."""
        ways = [it for key in (SCORER, EXTRACTOR) if (it := run.value(key))]
        read = partial(read_numbers, name=run.number or "", ways=ways)
        parts = [self.first_intact(part, read, bool, "answers") for part in run.parts or [run]]
        return {question: it for part in parts for question, it in part.items()}

    def words(self, run: Run, wanted: set[Question], most: int = TEXT_END) -> dict[Question, dict[str, str]]:
        """Return a run's answers to some questions: verdict, extracted answer, and the end of the text."""
        answers: dict[Question, dict[str, str]] = {}
        for part in run.parts or [run]:
            extractor = part.value(EXTRACTOR) or ""
            for sample in read_samples(self.sources[part.run_id]).values():
                question = question_of(sample)
                if question in wanted and sample.answer.verdict is not None:
                    extracted = sample.answer.extracted or {}
                    answer = extracted.get(extractor, next(iter(extracted.values()), None))
                    answers[question] = side_of(sample.answer.verdict, answer, sample.answer.parts.answer, most)
        return answers

    def remark(self, run: Run, base: Run) -> str:
        """Say what else a reader of a comparison of two runs has to know."""
        return ""

    def first_intact(
        self, run: Run, read: Callable[[Path], Content], agrees: Callable[[Content], bool], logged: str
    ) -> Content:
        """Return the content of the first intact file of samples that agrees with the log, or raise NotPaired."""
        why, damage = "is neither in its folder nor in MLflow", ""
        for path in self.files(run, SAMPLES):
            try:
                content = read(path)
            except EvidenceError as error:
                why, damage = f"is damaged: {error}", str(error)
                continue
            if agrees(content):
                self.sources[run.run_id] = path
                if damage:
                    say(f"note: {damage}. {run.job_id} is compared using {path}")
                return content
            why = f"is damaged: {damage}" if damage else f"disagrees with its logged {logged}"
        raise NotPaired(f"no samples: {SAMPLES} of {run.job_id} {why}")

    def files(self, run: Run, name: str) -> Iterator[Path]:
        """Yield the file from the run's folder, from the folder beside a moved database, and from MLflow."""
        yield from self._here(run, name)
        fetched = self._download(run, name)
        if fetched is not None:
            yield fetched

    def fetch(self, runs: Iterable[Run]) -> None:
        """Fetch the samples that no local folder has from MLflow, several at a time."""
        missing = [run for run in runs if (run.score or run.unit) and not any(self._here(run, SAMPLES))]
        if missing:
            with Progress(len(missing), "fetching") as bar, ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
                for _ in pool.map(lambda run: self._download(run, SAMPLES), missing):
                    bar.advance(1)

    def _download(self, run: Run, name: str) -> Path | None:
        if self.client is None:
            return None
        key = run.run_id, name
        if key not in self._fetched:
            self._fetched[key] = download(self.client, run.run_id, name, self.scratch / run.run_id)
        return self._fetched[key]

    def _here(self, run: Run, name: str) -> Iterator[Path]:
        folders = [Path(run.folder)] if run.folder else []
        folders.append(self.output_dir / "jobs" / run.job_id)
        place = urlsplit(run.artifacts)
        if place.scheme in ("", "file") and place.path:  # a local folder, perhaps on another machine
            folders.append(Path(unquote(place.path)))
        yield from (folder / name for folder in dict.fromkeys(folders) if (folder / name).is_file())


def _counts(answers: Answers) -> tuple[int, int]:
    return sum(it.solved for it in answers.values()), len(answers)


def read_answers(path: Path, stopped_after: int | None = None) -> Answers:
    """Return whether each scored question was solved; EvidenceError with file and line if a sample was changed.

    Only the first `stopped_after` questions count if a job stopped early, and none that task.without leaves out.
    """
    scored = sorted((it for it in _samples_in(path) if it.answer.verdict is not None), key=lambda it: it.index)
    return {
        question_of(one): QuestionOutcome(
            one.solved, one.prompt_sha256, one.cluster, one.right_answers, cut_off=one.cut_off_answers
        )
        for one in scored[:stopped_after]
        if not one.left_out
    }


def _samples_in(path: Path) -> Iterable[Sample]:
    try:
        return read_samples(path).values()
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read ({error.strerror})") from error


def read_texts(path: Path) -> Texts:
    """Return each text's score from a file of samples; EvidenceError with file and line if a sample was changed."""
    return {
        one.index: TextScore(
            (one.question, one.gold), one.prompt_sha256, tuple(one.answer.token_ids), one.likelihood, one.cluster
        )
        for one in _samples_in(path)
        if one.likelihood is not None
    }
