"""The recorded accuracies of candidates: of the questions that their commands would ask, and of no
others.

A record counts if its job put the questions in the same way: the same data, order, prompts,
extractor, scoring and sampling. One that asked more or fewer of the questions counts only on those
that both have, from its answers on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from runner.config.root import RunnerConfig
from runner.datasets.gsm8k import items_sha256, load_questions
from runner.estimates.recorded import FinishedJobs, with_defaults
from runner.records.flat_config import flatten
from runner.records.jobs import SAMPLES, read_samples
from runner.tasks.base import task_of
from runner_base import EvidenceError, Record, Sample
from runner_compare import ACCURACY, score
from runner_compare.statistics import (
    MIN_CLUSTERS,
    Fisher,
    McNemar,
    MeanFlips,
    Test,
    share_interval,
    wilson_interval,
)

# Keys in which two jobs may differ and still answer the questions that both ask in the same way.
# which questions are asked, and which count
COUNT_KEYS = ("task.limit", "task.only", "task.without")
FREE_KEYS = (
    *("generation.batch_size", "generation.speculate", "generation.name"),
    *("task.show_prompt", "task.check_invariance", "task.check_contamination", "task.early_stop_vs"),
    "task.cluster",  # each answer has its own cluster, if it has one
)
DIGITS = 16  # of the data's hash, in a record

Question = tuple[int, str, str]  # its number, its text and its gold answer


class Answer(NamedTuple):
    """Whether a question was solved, the hash of its prompt, and the family of questions that it
    belongs to."""

    solved: bool
    prompt: str
    family: str | None = None
    # of several answers to it: how many are right, and how many there are
    right: tuple[int, int] = (0, 0)

    @property
    def share(self) -> float:
        """The share of right answers: 0 or 1 for a single one."""
        return self.right[0] / self.right[1] if self.right[1] else float(self.solved)


Answers = dict[Question, Answer]


@dataclass(frozen=True)
class RecordedAccuracy:
    """How many of a candidate's questions a recorded job solved."""

    job_id: str
    correct: int
    n: int
    asked: int  # by the candidate's command; more than n if the record has only some of them
    answers: Answers | None = None  # None: they are not on disk any more
    recorded: tuple[float, float, float] | None = None  # the accuracy of families, or of several answers each

    @property
    def accuracy(self) -> float:
        """The share of right answers: of several answers to each question, the mean over all."""
        if self.answers:
            return fmean(answer.share for answer in self.answers.values())
        return self.recorded[0] if self.recorded else self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, over families of questions if these are known."""
        if self.answers:
            columns = zip(
                *((answer.share, answer.family, answer.right[1] or 1) for answer in self.answers.values()),
                strict=True,
            )
            return share_interval(*columns)
        return self.recorded[1:] if self.recorded else wilson_interval(self.correct, self.n)


@dataclass(frozen=True)
class _Match:
    """A record that put the questions in the candidate's way."""

    record: Record
    answers: Answers | None  # also to questions that its job left out of the score
    left_out: frozenset[Question] = frozenset()


def recorded_accuracies(
    configs: Sequence[RunnerConfig], finished: FinishedJobs
) -> list[RecordedAccuracy | None]:
    """Return the recorded accuracy of each config on the questions that it asks; None where nothing
    is recorded.

    The configs differ only in the model and its settings.
    """
    matches = [_matches(config, finished) for config in configs]
    found = [match for some in matches for match in some]
    if not found:
        return [None] * len(configs)
    asked, digest = _asked(configs[0], found)
    return [_best(config, some, asked, digest) for config, some in zip(configs, matches, strict=True)]


def compare(accuracy: RecordedAccuracy, other: RecordedAccuracy, same_model: bool) -> Test | None:
    """Compare two accuracies, in pairs if the answers are on disk; None if no question can be
    compared.

    Prompts of one model must be the same; those of two models differ by their chat templates.
    """
    if accuracy.answers is None or other.answers is None:
        whole = accuracy.n == accuracy.asked and other.n == other.asked
        # Fisher's test takes each question, and answer, by itself
        are_counts = not (accuracy.recorded or other.recorded)
        return Fisher(accuracy.correct, accuracy.n, other.correct, other.n) if whole and are_counts else None
    pairs = [
        (answer, other.answers[question])
        for question, answer in accuracy.answers.items()
        if question in other.answers and (not same_model or answer.prompt == other.answers[question].prompt)
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
        differences = [answer.share - other_answer.share for answer, other_answer in pairs]
        return MeanFlips(differences, families, "task.cluster", several, baseline_correct)
    if several > 1:
        if len(pairs) < MIN_CLUSTERS:
            return None
        return MeanFlips(
            [answer.share - other_answer.share for answer, other_answer in pairs],
            None,
            "",
            several,
            baseline_correct,
        )
    wins = sum(answer.solved and not other_answer.solved for answer, other_answer in pairs)
    losses = sum(other_answer.solved and not answer.solved for answer, other_answer in pairs)
    return McNemar(wins, losses, len(pairs), baseline_correct)


def _matches(config: RunnerConfig, finished: FinishedJobs) -> list[_Match]:
    """Return the records that put their questions in the config's way, the newest first."""
    own_ways = _ways(dict(flatten(config)))
    found = [
        record
        for record in finished.like(config)
        if (score(record.result.metrics) or (0, 0))[1]
        and not record.result.metrics.get("questions_left")  # an early stop biases the counts
        and _ways(with_defaults(record.params, config)) == own_ways
        and record.task_version == task_of(config).VERSION
    ]
    found.sort(key=lambda record: (record.started_at, record.job_id), reverse=True)
    return [_read_answers(finished.folder(record), record) for record in found]


def _ways(params: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that say how questions are chosen, put, answered and scored."""
    free = (*FREE_KEYS, *COUNT_KEYS)
    ways = {
        key: value
        for key, value in params.items()
        if key.startswith(("task.", "generation.")) and key not in free
    }
    if float(params.get("generation.temperature", "0") or 0):
        ways["seed"] = params.get("seed", "")
    return ways


def _read_answers(folder: Path, record: Record) -> _Match:
    """Return a job's record with its answers, if these are on disk and are those that it
    counted."""
    try:
        samples = [
            sample for sample in read_samples(folder / SAMPLES).values() if sample.answer.verdict is not None
        ]
    except (OSError, EvidenceError):
        return _Match(record, None)
    answers = {
        _question_of(sample): Answer(
            sample.solved, sample.prompt_sha256, sample.cluster, sample.right_answers
        )
        for sample in samples
    }
    left_out = frozenset(_question_of(sample) for sample in samples if sample.left_out)
    counted = {question: answer for question, answer in answers.items() if question not in left_out}
    return _Match(record, answers if _counts(counted) == score(record.result.metrics) else None, left_out)


def _question_of(sample: Sample) -> Question:
    return sample.index, sample.question or "", sample.gold or ""


def _counts(answers: Answers) -> tuple[int, int]:
    return sum(answer.solved for answer in answers.values()), len(answers)


def _asked(config: RunnerConfig, found: Sequence[_Match]) -> tuple[set[Question], str]:
    """Return the questions that a config asks, and the hash of these as records keep it.

    Data of the hub are not read, because that takes the network: the newest record of as many
    questions, or of more, tells which they are.
    """
    task = config.task.of_questions
    assert task is not None
    if task.data == "embedded" or Path(task.data).expanduser().exists():
        items = load_questions(task)
        asked = {(item.number, item.question, item.gold) for item in items if not item.left_out}
        return asked, items_sha256(items)[:DIGITS]
    counts = _counts_asked(config)
    newest = sorted(found, key=lambda match: match.record.started_at, reverse=True)
    whole = [match for match in newest if _asks(match.record, counts)]
    digest = whole[0].record.data.get("digest", "") if whole else ""
    if known := next((match for match in whole if match.answers is not None), None):
        return {*(known.answers or {})} - known.left_out, digest
    is_plain = task.limit is not None and task.only is None and task.without is None
    larger = [
        sorted(match.answers or {})[: task.limit]
        for match in newest
        if is_plain and not _chooses(match.record)
    ]
    return set(next((some for some in larger if len(some) == task.limit), [])), digest


def _best(
    config: RunnerConfig, matches: Sequence[_Match], asked: set[Question], digest: str
) -> RecordedAccuracy | None:
    """Return the accuracy by the record with the most of the questions; of several, the newest."""
    counts = _counts_asked(config)
    best: RecordedAccuracy | None = None
    for match in matches:
        record = match.record
        if match.answers is not None:
            answers = {question: match.answers[question] for question in asked & match.answers.keys()}
            found = RecordedAccuracy(record.job_id, *_counts(answers), len(asked), answers)
        elif digest and record.data.get("digest") == digest and _asks(record, counts):
            figures = record.result.metrics
            correct, n = score(figures) or (0, 0)
            is_mean = "families" in figures or figures.get("answers_each", 1) > 1
            recorded = (figures[ACCURACY[0]], figures[ACCURACY[1]], figures[ACCURACY[2]]) if is_mean else None
            found = RecordedAccuracy(record.job_id, correct, n, n, recorded=recorded)
        else:
            continue
        if found.n > (best.n if best else 0):
            best = found
    return best


def _counts_asked(config: RunnerConfig) -> dict[str, str]:
    return {key: value for key, value in flatten(config) if key in COUNT_KEYS}


def _chooses(record: Record) -> bool:
    """Whether a file chose which questions were asked."""
    return record.params.get("task.only", "null") != "null"


def _asks(record: Record, counts: Mapping[str, str]) -> bool:
    """Whether a job asked as many questions."""
    return all(record.params.get(key, "null") == value for key, value in counts.items())
