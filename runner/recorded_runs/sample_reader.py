"""Reads a job's answers for a comparison, from the job's folder or from MLflow."""

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
from runner.recorded_runs.sample_numbers import NUMBERS, read_sample_metric
from runner.records.divergences import DIVERGENCES, WORST_TOKENS, read_divergences
from runner.records.jobs import read_samples
from runner.render.rule_changes import describe_rule_changes
from runner.tracking.stored_runs import download_artifact
from runner_base import Progress, RunRecordError, Sample, print_message
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
    format_flip_side,
    missing_samples_error,
    question_identity,
)
from runner_compare.statistics import (
    EXTRACTOR,
    SCORER,
    TextTokens,
    ratio_of_sums,
    sum_likelihoods_by_document,
)

Content = TypeVar("Content")

FETCHED_AT_ONCE = 8  # most of the time is waiting; more would crowd out the server's other users
TOLERANCE = (
    1e-9  # nats per token by which a file may differ from what was logged: MLflow stores numbers exactly
)


class SampleReader(Reader):
    """Reads the samples of runs from local folders. Missing files are downloaded from MLflow."""

    numbers_of_questions = NUMBERS

    def __init__(self, client: Any, output_dir: Path, temp_folder: Path) -> None:
        super().__init__()
        self.key_rules = SchemaRules()
        self.client, self.output_dir, self.scratch = client, output_dir, temp_folder
        self.sources: dict[str, Path] = {}  # by run id: the file that its answers were read from
        self._fetched: dict[tuple[str, str], Path | None] = {}  # by run id and file name; None: not in MLflow

    def load_run_answers(self, run: Run) -> Answers:
        """Return which questions a run solved.

        Skips sample files whose counts differ from the counts logged to MLflow.
        """
        read = partial(read_verdicts, num_questions=run.num_questions_when_stopped)
        return self.read_first_matching_file(
            run, read, lambda found: _count_solved(found) == run.correct_and_total, "n and correct"
        )

    def load_text_scores(self, run: Run) -> Texts:
        """Return each document's log-likelihood.

        Skips sample files whose mean differs from the mean logged to MLflow.
        """

        def do_scores_match_logged_likelihood(scores: Texts) -> bool:
            likelihoods = sum_likelihoods_by_document([score.likelihood for score in scores.values()])
            logged = run.metrics[LOG_LIKELIHOOD]
            return bool(likelihoods) and math.isclose(
                ratio_of_sums(
                    [likelihood.nats for likelihood in likelihoods],
                    [likelihood.tokens for likelihood in likelihoods],
                ),
                logged,
                abs_tol=TOLERANCE,
            )

        return self.read_first_matching_file(
            run, read_text_scores, do_scores_match_logged_likelihood, LOG_LIKELIHOOD
        )

    def load_metric_values(self, run: Run) -> Answers:
        """Return the value of each question for a metric other than the verdict, such as the log-likelihood."""
        ways = [way for key in (SCORER, EXTRACTOR) if (way := run.get_value(key))]
        read = partial(read_sample_metric, metric_name=run.number or "", extractor_names=ways)
        parts = [self.read_first_matching_file(part, read, bool, "answers") for part in run.parts or [run]]
        return {question: answer for part in parts for question, answer in part.items()}

    def load_answer_texts(
        self, run: Run, questions: set[Question], max_chars: int = TEXT_END
    ) -> dict[Question, dict[str, str]]:
        answers: dict[Question, dict[str, str]] = {}
        for part in run.parts or [run]:
            extractor = part.get_value(EXTRACTOR) or ""
            for sample in read_samples(self.sources[part.run_id]).values():
                question = question_identity(sample)
                if question in questions and sample.answer.verdict is not None:
                    extracted = sample.answer.extracted or {}
                    answer = extracted.get(extractor, next(iter(extracted.values()), None))
                    answers[question] = format_flip_side(
                        sample.answer.verdict, answer, sample.answer.parts.answer, max_chars
                    )
        return answers

    def iter_generated_texts(self, run: Run) -> Iterator[str]:
        for part in run.parts or [run]:
            for sample in read_samples(self.sources[part.run_id]).values():
                if not sample.failed and not sample.is_scored:
                    yield from (answer.text for answer in sample.answers)

    def find_excluded_questions(self, run: Run) -> set[Question]:
        parts = [part for part in run.parts or [run] if part.metrics.get("n_all")]
        samples = [sample for part in parts for sample in read_samples(self.sources[part.run_id]).values()]
        return {question_identity(sample) for sample in samples if sample.left_out}

    def load_token_costs(self, run: Run) -> Costs:
        """Return the cost of each scored question.

        Skips sample files whose counts differ from the counts logged to MLflow.
        """

        def matches_logged_counts(costs: Costs) -> bool:
            return (sum(cost.solved for cost in costs.values()), len(costs)) == run.correct_and_total

        return self.read_first_matching_file(
            run,
            partial(read_question_costs, num_questions=run.num_questions_when_stopped),
            matches_logged_counts,
            "n and correct",
        )

    def iter_repeated_measurements(self, run: Run) -> Iterator[dict[str, list[float]]]:
        for path in self.find_files(run, REPEATS):
            try:
                measures = read_repeats(path)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # perhaps half written: MLflow has another copy
            yield measures

    def load_text_tokens(self, run: Run) -> list[TextTokens] | None:
        """Return the token divergences of each document, in sample order.

        Wrong answer choices are excluded.
        """
        pairs = zip(self.find_files(run, DIVERGENCES), self.find_files(run, SAMPLES), strict=False)
        return next((_read_token_divergences(divergences, samples) for divergences, samples in pairs), None)

    def load_worst_tokens(self, run: Run) -> list[dict[str, Any]]:
        """Return the tokens with the largest divergence, each with the text around it."""
        path = next(self.find_files(run, WORST_TOKENS), None)
        lines = [] if path is None else path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def describe_rule_changes(self, task: str, versions: tuple[str, str]) -> str:
        return describe_rule_changes(task, versions)

    def read_first_matching_file(
        self,
        run: Run,
        read_file: Callable[[Path], Content],
        matches_logged_metrics: Callable[[Content], bool],
        metric_names: str,
    ) -> Content:
        """Return the first undamaged samples file that matches the logged metrics.

        Raises NotPaired if there is no such file.
        """
        why, damage = "", ""
        for path in self.find_files(run, SAMPLES):
            try:
                content = read_file(path)
            except RunRecordError as error:
                why, damage = f"is damaged: {error}", str(error)
                continue
            if matches_logged_metrics(content):
                self.sources[run.run_id] = path
                if damage:
                    print_message(f"note: {damage}. The comparison therefore reads {run.job_id} from {path}")
                return content
            why = f"is damaged: {damage}" if damage else f"disagrees with its logged {metric_names}"
        raise missing_samples_error(run, why)

    def find_files(self, run: Run, name: str) -> Iterator[Path]:
        """Yield all copies of a run's file, local copies first, then the MLflow artifact."""
        yield from self._iterate_local_files(run, name)
        fetched = self._download_artifact_once(run, name)
        if fetched is not None:
            yield fetched

    def fetch_files(self, runs: Iterable[Run]) -> None:
        """Download in parallel all samples files that no local folder contains."""
        missing = [
            run
            for run in runs
            if (run.correct_and_total or run.likelihood_unit)
            and not any(self._iterate_local_files(run, SAMPLES))
        ]
        if missing:
            with (
                Progress(len(missing), "fetching", "runs") as bar,
                ThreadPoolExecutor(FETCHED_AT_ONCE) as pool,
            ):
                for _ in pool.map(lambda run: self._download_artifact_once(run, SAMPLES), missing):
                    bar.advance(1)

    def _download_artifact_once(self, run: Run, name: str) -> Path | None:
        if self.client is None:
            return None
        key = run.run_id, name
        if key not in self._fetched:
            self._fetched[key] = download_artifact(self.client, run.run_id, name, self.scratch / run.run_id)
        return self._fetched[key]

    def _iterate_local_files(self, run: Run, name: str) -> Iterator[Path]:
        folders = [Path(run.folder)] if run.folder else []
        folders.append(self.output_dir / "jobs" / run.job_id)
        address = urlsplit(run.artifacts)
        if address.scheme in ("", "file") and address.path:  # a local folder, perhaps on another machine
            folders.append(Path(unquote(address.path)))
        names = (name, name + GZIP_SUFFIX) if name == SAMPLES else (name,)
        paths = (folder / each for folder in dict.fromkeys(folders) for each in names)
        yield from (path for path in paths if path.is_file())


def _count_solved(answers: Answers) -> tuple[int, int]:
    return sum(answer.solved for answer in answers.values()), len(answers)


def read_verdicts(path: Path, num_questions: int | None = None) -> Answers:
    """Return whether each scored question was solved. Raises RunRecordError with file and line if
    a sample was modified.
    """
    scored = sorted(
        (sample for sample in _read_sample_values(path) if sample.answer.verdict is not None),
        key=lambda sample: sample.index,
    )
    return {
        question_identity(sample): QuestionOutcome.from_sample(sample)
        for sample in scored[:num_questions]
        if not sample.left_out
    }


def _read_sample_values(path: Path) -> Iterable[Sample]:
    try:
        return read_samples(path).values()
    except OSError as error:
        raise RunRecordError(f"{path} cannot be read ({error.strerror})", code="unreadable") from error


def read_text_scores(path: Path) -> Texts:
    """Return each text's log-likelihood. Raises RunRecordError with file and line if a sample was
    modified.
    """
    scores = ((sample.index, TextScore.from_sample(sample)) for sample in _read_sample_values(path))
    return {index: score for index, score in scores if score is not None}


def read_question_costs(path: Path, num_questions: int | None = None) -> Costs:
    """Return the cost of each scored question. Raises RunRecordError with file and line if a
    sample was modified.
    """
    scored = sorted(
        (sample for sample in read_samples(path).values() if sample.answer.verdict is not None),
        key=lambda sample: sample.index,
    )
    return {
        question_identity(sample): QuestionCost(
            sample.prompt_tokens,
            sum(answer.num_tokens for answer in sample.answers),
            sample.solved,
            sample.cluster,
            sample.failed,
            sample.accuracy(),
        )
        for sample in scored[:num_questions]
        if not sample.left_out
    }


def _read_token_divergences(divergences_file: Path, samples_file: Path) -> list[TextTokens]:
    by_sample = read_divergences(divergences_file)
    scored = [
        sample
        for _, sample in sorted(read_samples(samples_file).items())
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
