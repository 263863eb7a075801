"""Looks up the accuracy that earlier jobs recorded for each candidate config on the same questions.

A record counts if its job asked the questions in the same way: same data, order, prompts,
extractor, scoring and sampling. If its questions differ in number, only the shared ones
count, from its answers on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from runner.config.root import RunnerConfig
from runner.datasets.questions import hash_questions, load_questions
from runner.estimates.recorded import FinishedJobs, fill_missing_params
from runner.records.flat_config import flatten_config
from runner.records.jobs import SAMPLES, read_samples
from runner.tasks.base import import_task_module
from runner_base import Record, RunRecordError, Sample
from runner_compare import ACCURACY, correct_and_total
from runner_compare.statistics import (
    MIN_CLUSTERS,
    FisherTest,
    McNemarTest,
    MeanFlipTest,
    Test,
    accuracy_interval,
    compute_wilson_interval,
)

# Keys in which two jobs may differ and still answer the questions that both ask in the same way.
# which questions are asked, and which count
COUNT_KEYS = ("task.limit", "task.only", "task.unscored")
FREE_KEYS = (
    *("generation.batch_size", "generation.speculate", "generation.name"),
    *("task.show_prompt", "task.check_invariance", "task.check_contamination", "task.early_stop_vs"),
    "task.cluster",  # each answer has its own cluster, if it has one
)
DIGITS = 16  # of the data's hash, in a record

Question = tuple[int, str, str]  # its number, its text and its gold answer


class RecordedAnswer(NamedTuple):
    """Recorded answer to one question: whether it was correct, the hash of its prompt, and its question
    cluster.
    """

    solved: bool
    prompt: str
    family: str | None = None
    # of several answers to it: how many are right, and how many there are
    right: tuple[int, int] = (0, 0)

    @property
    def accuracy(self) -> float:
        return self.right[0] / self.right[1] if self.right[1] else float(self.solved)


Answers = dict[Question, RecordedAnswer]


@dataclass(frozen=True)
class RecordedAccuracy:
    """Accuracy of an earlier job, counted over the questions that the candidate would ask."""

    job_id: str
    correct: int
    n: int
    asked: int  # by the candidate's command; more than n if the record has only some of them
    answers: Answers | None = None  # None: they are not on disk any more
    recorded: tuple[float, float, float] | None = None  # the accuracy of families, or of several answers each

    @property
    def accuracy(self) -> float:
        if self.answers:
            return fmean(answer.accuracy for answer in self.answers.values())
        return self.recorded[0] if self.recorded else self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy. It accounts for clusters of questions if they
        are known.
        """
        if self.answers:
            columns = zip(
                *((answer.accuracy, answer.family, answer.right[1] or 1) for answer in self.answers.values()),
                strict=True,
            )
            return accuracy_interval(*columns)
        return self.recorded[1:] if self.recorded else compute_wilson_interval(self.correct, self.n)


@dataclass(frozen=True)
class _MatchingRecord:
    """Stored record of an earlier job that has the same question settings as the candidate."""

    record: Record
    answers: Answers | None  # also to questions that its job left out of the score
    left_out: frozenset[Question] = frozenset()


def find_recorded_accuracies(
    configs: Sequence[RunnerConfig], finished_jobs: FinishedJobs
) -> list[RecordedAccuracy | None]:
    """Return the accuracy that an earlier job recorded for each config, or None if no such job exists.

    The configs differ only in the model and its settings.
    """
    matches = [_find_records_with_same_settings(config, finished_jobs) for config in configs]
    found = [match for some in matches for match in some]
    if not found:
        return [None] * len(configs)
    asked, digest = _get_selected_questions_and_hash(configs[0], found)
    return [
        _choose_accuracy_with_most_questions(config, some, asked, digest)
        for config, some in zip(configs, matches, strict=True)
    ]


def compare_accuracies(first: RecordedAccuracy, second: RecordedAccuracy, same_model: bool) -> Test | None:
    """Test whether two accuracies differ. The test is paired by question if both jobs' answers
    are on disk.

    Returns None if no question can be compared.

    Prompts of one model must be equal. Those of two models differ by their chat templates.
    """
    if first.answers is None or second.answers is None:
        whole = first.n == first.asked and second.n == second.asked
        # Fisher's test takes each question, and answer, by itself
        are_counts = not (first.recorded or second.recorded)
        return FisherTest(first.correct, first.n, second.correct, second.n) if whole and are_counts else None
    pairs = [
        (answer, second.answers[question])
        for question, answer in first.answers.items()
        if question in second.answers and (not same_model or answer.prompt == second.answers[question].prompt)
    ]
    if not pairs:
        return None
    several = max(answer.right[1] or 1 for pair in pairs for answer in pair)
    baseline_correct, families = (
        sum(other_answer.solved for _, other_answer in pairs),
        [answer.family for answer, _ in pairs],
    )
    if None not in families:
        if len(set(families)) < MIN_CLUSTERS:
            return None
        differences = [answer.accuracy - other_answer.accuracy for answer, other_answer in pairs]
        return MeanFlipTest(differences, families, "task.cluster", several, baseline_correct)
    if several > 1:
        if len(pairs) < MIN_CLUSTERS:
            return None
        return MeanFlipTest(
            [answer.accuracy - other_answer.accuracy for answer, other_answer in pairs],
            None,
            "",
            several,
            baseline_correct,
        )
    wins = sum(answer.solved and not other_answer.solved for answer, other_answer in pairs)
    losses = sum(other_answer.solved and not answer.solved for answer, other_answer in pairs)
    return McNemarTest(wins, losses, len(pairs), baseline_correct)


def _find_records_with_same_settings(
    config: RunnerConfig, finished_jobs: FinishedJobs
) -> list[_MatchingRecord]:
    """Return the records of finished jobs with the same question and sampling settings as the config, newest
    first.
    """
    own_ways = _select_params_that_affect_answers(dict(flatten_config(config)))
    found = [
        record
        for record in finished_jobs.same_base_records(config)
        if (correct_and_total(record.result.metrics) or (0, 0))[1]
        and not record.result.metrics.get("questions_left")  # an early stop biases the counts
        and _select_params_that_affect_answers(fill_missing_params(record.params, config)) == own_ways
        and record.task_version == import_task_module(config).VERSION
    ]
    found.sort(key=lambda record: (record.started_at, record.job_id), reverse=True)
    return [_load_record_with_answers(finished_jobs.job_folder(record), record) for record in found]


def _select_params_that_affect_answers(params: Mapping[str, str]) -> dict[str, str]:
    free = (*FREE_KEYS, *COUNT_KEYS)
    ways = {
        key: value
        for key, value in params.items()
        if key.startswith(("task.", "generation.")) and key not in free
    }
    if float(params.get("generation.temperature", "0") or 0):
        ways["seed"] = params.get("seed", "")
    return ways


def _load_record_with_answers(folder: Path, record: Record) -> _MatchingRecord:
    try:
        samples = [
            sample for sample in read_samples(folder / SAMPLES).values() if sample.answer.verdict is not None
        ]
    except (OSError, RunRecordError):
        return _MatchingRecord(record, None)
    answers = {
        _question_key(sample): RecordedAnswer(
            sample.solved, sample.prompt_sha256, sample.cluster, sample.count_correct_answers
        )
        for sample in samples
    }
    left_out = frozenset(_question_key(sample) for sample in samples if sample.left_out)
    counted = {question: answer for question, answer in answers.items() if question not in left_out}
    return _MatchingRecord(
        record,
        answers if _count_correct(counted) == correct_and_total(record.result.metrics) else None,
        left_out,
    )


def _question_key(sample: Sample) -> Question:
    return sample.index, sample.question or "", sample.gold or ""


def _count_correct(answers: Answers) -> tuple[int, int]:
    return sum(answer.solved for answer in answers.values()), len(answers)


def _get_selected_questions_and_hash(
    config: RunnerConfig, matches: Sequence[_MatchingRecord]
) -> tuple[set[Question], str]:
    """Return the set of questions that a config selects, and the hash of the question data.

    Hub data are not read, because that needs the network. The newest record with at least as
    many questions defines them.
    """
    task = config.task.questions_config
    assert task is not None
    if task.data == "embedded" or Path(task.data).expanduser().exists():
        items = load_questions(task)
        asked = {(item.number, item.question, item.gold) for item in items if not item.left_out}
        return asked, hash_questions(items)[:DIGITS]
    counts = _question_count_settings(config)
    newest = sorted(matches, key=lambda match: match.record.started_at, reverse=True)
    whole = [match for match in newest if _has_same_question_counts(match.record, counts)]
    digest = whole[0].record.data.get("digest", "") if whole else ""
    if known := next((match for match in whole if match.answers is not None), None):
        return {*(known.answers or {})} - known.left_out, digest
    is_plain = task.limit is not None and task.only is None and task.unscored is None
    larger = [
        sorted(match.answers or {})[: task.limit]
        for match in newest
        if is_plain and not _is_limited_by_question_file(match.record)
    ]
    return set(next((some for some in larger if len(some) == task.limit), [])), digest


def _choose_accuracy_with_most_questions(
    config: RunnerConfig, matches: Sequence[_MatchingRecord], questions: set[Question], data_digest: str
) -> RecordedAccuracy | None:
    """Return the accuracy from the job record that covers the largest number of the config's questions."""
    counts = _question_count_settings(config)
    best: RecordedAccuracy | None = None
    for match in matches:
        record = match.record
        if match.answers is not None:
            answers = {question: match.answers[question] for question in questions & match.answers.keys()}
            found = RecordedAccuracy(record.job_id, *_count_correct(answers), len(questions), answers)
        elif (
            data_digest
            and record.data.get("digest") == data_digest
            and _has_same_question_counts(record, counts)
        ):
            figures = record.result.metrics
            correct, n = correct_and_total(figures) or (0, 0)
            is_mean = "families" in figures or figures.get("answers_each", 1) > 1
            recorded = (figures[ACCURACY[0]], figures[ACCURACY[1]], figures[ACCURACY[2]]) if is_mean else None
            found = RecordedAccuracy(record.job_id, correct, n, n, recorded=recorded)
        else:
            continue
        if found.n > (best.n if best else 0):
            best = found
    return best


def _question_count_settings(config: RunnerConfig) -> dict[str, str]:
    return {key: value for key, value in flatten_config(config) if key in COUNT_KEYS}


def _is_limited_by_question_file(record: Record) -> bool:
    return record.params.get("task.only", "null") != "null"


def _has_same_question_counts(record: Record, count_settings: Mapping[str, str]) -> bool:
    return all(record.params.get(key, "null") == value for key, value in count_settings.items())
