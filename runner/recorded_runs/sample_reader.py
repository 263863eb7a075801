"""A job's answers for a comparison: from its folder, or fetched from MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from runner.recorded_runs.key_rules import SchemaRules
from runner.recorded_runs.sample_numbers import NUMBERS, read_numbers
from runner.records.divergences import DIVERGENCES, WORST_TOKENS, read_divergences
from runner.records.jobs import read_samples
from runner.render.rule_changes import rules_between
from runner.tracking.stored_runs import download
from runner_base import EvidenceError, Progress, Sample, say
from runner_base.gzip_files import GZIP_SUFFIX
from runner_base.repeats import REPEATS, read_repeats
from runner_compare import (
    LOG_LIKELIHOOD,
    SAMPLES,
    TEXT_END,
    Answers,
    Costs,
    Question,
    QuestionCost,
    QuestionOutcome,
    Reader,
    Run,
    Texts,
    TextScore,
    no_samples,
    question_of,
    side_of,
)
from runner_compare.statistics import EXTRACTOR, SCORER, TextTokens, ratio, units

Content = TypeVar("Content")

FETCHED_AT_ONCE = 8  # most of the time is waiting; more would crowd out the server's other users
TOLERANCE = (
    1e-9  # nats per token by which a file may differ from what was logged: MLflow stores numbers exactly
)


class SampleReader(Reader):
    """Reads what jobs have recorded; what their folders lack is fetched from MLflow."""

    numbers_of_questions = NUMBERS

    def __init__(self, client: Any, output_dir: Path, scratch: Path) -> None:
        super().__init__()
        self.key_rules = SchemaRules()
        self.client, self.output_dir, self.scratch = client, output_dir, scratch
        self.sources: dict[str, Path] = {}  # by run id: the file that its answers were read from
        self._fetched: dict[tuple[str, str], Path | None] = {}  # by run id and file name; None: not in MLflow

    def of_one(self, run: Run) -> Answers:
        """Return which questions one run solved, from the first intact file that agrees with the
        logged counts."""
        read = partial(read_answers, stopped_after=run.stopped_after)
        return self.first_intact(run, read, lambda found: _counts(found) == run.score, "n and correct")

    def texts(self, run: Run) -> Texts:
        """Return each text's log-likelihood, from the first intact file that agrees with the logged
        mean."""

        def agrees(scores: Texts) -> bool:
            likelihoods = units([score.likelihood for score in scores.values()])
            logged = run.metrics[LOG_LIKELIHOOD]
            return bool(likelihoods) and math.isclose(
                ratio(
                    [likelihood.nats for likelihood in likelihoods],
                    [likelihood.tokens for likelihood in likelihoods],
                ),
                logged,
                abs_tol=TOLERANCE,
            )

        return self.first_intact(run, read_texts, agrees, LOG_LIKELIHOOD)

    def numbers(self, run: Run) -> Answers:
        """Return the number of each question that is compared instead of its verdict."""
        ways = [way for key in (SCORER, EXTRACTOR) if (way := run.value(key))]
        read = partial(read_numbers, name=run.number or "", ways=ways)
        parts = [self.first_intact(part, read, bool, "answers") for part in run.parts or [run]]
        return {question: answer for part in parts for question, answer in part.items()}

    def words(self, run: Run, wanted: set[Question], most: int = TEXT_END) -> dict[Question, dict[str, str]]:
        """Return a run's answers to some questions: verdict, extracted answer, and the end of the
        text."""
        answers: dict[Question, dict[str, str]] = {}
        for part in run.parts or [run]:
            extractor = part.value(EXTRACTOR) or ""
            for sample in read_samples(self.sources[part.run_id]).values():
                question = question_of(sample)
                if question in wanted and sample.answer.verdict is not None:
                    extracted = sample.answer.extracted or {}
                    answer = extracted.get(extractor, next(iter(extracted.values()), None))
                    answers[question] = side_of(
                        sample.answer.verdict, answer, sample.answer.parts.answer, most
                    )
        return answers

    def left_out(self, run: Run) -> set[Question]:
        """Return the questions that a run has answered and does not count."""
        parts = [part for part in run.parts or [run] if part.metrics.get("n_all")]
        samples = [sample for part in parts for sample in read_samples(self.sources[part.run_id]).values()]
        return {question_of(sample) for sample in samples if sample.left_out}

    def costs(self, run: Run) -> Costs:
        """Return what the scored questions cost, from the first intact file that agrees with the
        logged counts."""

        def agrees(costs: Costs) -> bool:
            return (sum(cost.solved for cost in costs.values()), len(costs)) == run.score

        return self.first_intact(
            run, partial(read_costs, stopped_after=run.stopped_after), agrees, "n and correct"
        )

    def repeats(self, run: Run) -> Iterator[dict[str, list[float]]]:
        """Yield the repeats of each measure from the run's folder and from MLflow."""
        for path in self.files(run, REPEATS):
            try:
                measures = read_repeats(path)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # perhaps half written: MLflow has another copy
            yield measures

    def text_tokens(self, run: Run) -> list[TextTokens] | None:
        """Return the tokens of each text in the order of the samples, without wrong choices."""
        pairs = zip(self.files(run, DIVERGENCES), self.files(run, SAMPLES), strict=False)
        return next((_text_tokens(divergences, samples) for divergences, samples in pairs), None)

    def worst_tokens(self, run: Run) -> list[dict[str, Any]]:
        """Return the tokens with the largest divergence, each with its context."""
        path = next(self.files(run, WORST_TOKENS), None)
        lines = [] if path is None else path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def rules_between(self, task: str, versions: tuple[str, str]) -> str:
        """Say what changed between two versions of a task's rules; empty if that is not known."""
        return rules_between(task, versions)

    def first_intact(
        self, run: Run, read: Callable[[Path], Content], agrees: Callable[[Content], bool], logged: str
    ) -> Content:
        """Return the content of the first intact file of samples that agrees with the log, or raise
        NotPaired."""
        why, damage = "", ""
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
        raise no_samples(run, why)

    def files(self, run: Run, name: str) -> Iterator[Path]:
        """Yield the file from the run's folder, from the folder beside a moved database, and from
        MLflow."""
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
        address = urlsplit(run.artifacts)
        if address.scheme in ("", "file") and address.path:  # a local folder, perhaps on another machine
            folders.append(Path(unquote(address.path)))
        names = (name, name + GZIP_SUFFIX) if name == SAMPLES else (name,)
        paths = (folder / each for folder in dict.fromkeys(folders) for each in names)
        yield from (path for path in paths if path.is_file())


def _counts(answers: Answers) -> tuple[int, int]:
    return sum(answer.solved for answer in answers.values()), len(answers)


def read_answers(path: Path, stopped_after: int | None = None) -> Answers:
    """Return whether each scored question was solved; EvidenceError with file and line if a sample
    was changed.

    Only the first `stopped_after` questions count if a job stopped early, and none that
    task.without leaves out.
    """
    scored = sorted(
        (sample for sample in _samples_in(path) if sample.answer.verdict is not None),
        key=lambda sample: sample.index,
    )
    return {
        question_of(sample): QuestionOutcome.of(sample)
        for sample in scored[:stopped_after]
        if not sample.left_out
    }


def _samples_in(path: Path) -> Iterable[Sample]:
    try:
        return read_samples(path).values()
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read ({error.strerror})", code="unreadable") from error


def read_texts(path: Path) -> Texts:
    """Return each text's score from a file of samples; EvidenceError with file and line if a sample
    was changed."""
    return {
        sample.index: TextScore(
            (sample.question, sample.gold),
            sample.prompt_sha256,
            tuple(sample.answer.token_ids),
            sample.likelihood,
            sample.cluster,
        )
        for sample in _samples_in(path)
        if sample.likelihood is not None
    }


def read_costs(path: Path, stopped_after: int | None = None) -> Costs:
    """Return what each scored question cost; EvidenceError with file and line if a sample was
    changed."""
    scored = sorted(
        (sample for sample in read_samples(path).values() if sample.answer.verdict is not None),
        key=lambda sample: sample.index,
    )
    return {
        question_of(sample): QuestionCost(
            sample.prompt_tokens,
            sum(answer.tokens for answer in sample.answers),
            sample.solved,
            sample.cluster,
            sample.failed,
            sample.right_share(),
        )
        for sample in scored[:stopped_after]
        if not sample.left_out
    }


def _text_tokens(divergences: Path, samples: Path) -> list[TextTokens]:
    """Return the tokens of a run's texts, as its two files have them."""
    by_sample = read_divergences(divergences)
    scored = [
        sample
        for _, sample in sorted(read_samples(samples).items())
        if sample.likelihood and not sample.likelihood.is_other
    ]
    longest = max((sample.likelihood.context or 0 for sample in scored if sample.likelihood), default=0)
    counted = (
        sample for sample in scored if sample.likelihood and (sample.likelihood.context or 0) == longest
    )
    found = [by_sample[sample.index] for sample in counted if sample.index in by_sample]
    return [
        TextTokens(
            None,
            list(tokens.least),
            list(tokens.most),
            list(tokens.logprobs),
            list(tokens.reference),
            sum(own == other for own, other in zip(tokens.first, tokens.reference_first, strict=True)),
        )
        for tokens in found
    ]
