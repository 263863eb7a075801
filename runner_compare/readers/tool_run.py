"""Data classes for results of other tools: evaluations with verdicts or numbers, and measurements."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from runner_base import DataError, Verdict
from runner_compare.metrics import BetterDirection
from runner_compare.model.data import Answers, Question, QuestionOutcome, Texts, format_flip_side
from runner_compare.model.missing_jobs import MissingJob
from runner_compare.model.repeated_answers import AnswerVotes

LONGEST_TEXT = 4000  # characters of an answer that are kept: its end, as the page of samples shows
METRIC = "task.metric"
TOLERANCE = 1e-9  # by which a mean may differ from what was written, of itself where it is above 1: the order of a sum


class SampleTexts(NamedTuple):
    """A sample's question and answer texts for display."""

    question: str
    answer: str | None  # what was extracted from the text
    text: str


@dataclass(slots=True)
class ToolSample:
    """One sample of another tool's evaluation, with its answer."""

    sample_id: str
    question: str  # or its hash, where texts are read again
    gold: str
    solved: bool
    answer: str | None = None  # what was extracted from the text
    text: str = ""
    has_error: bool = False
    # of several answers to it: how many are right, and how many there are
    right: tuple[int, int] = (0, 0)
    votes: AnswerVotes | None = None  # how several answers vote, if what each of them says is known
    number: float | None = None  # its score; None: the tool has written none
    cluster: str | None = None  # the family that it belongs to, with --cluster
    fields: tuple[str, ...] = ()  # where it has no such family: what --cluster could name
    key: Question = (0, "", "")  # equal samples of a task have the same one in all runs

    @property
    def accuracy(self) -> float:
        """Fraction of the sample's answers that are correct. It is 0 or 1 for a single answer."""
        return self.right[0] / self.right[1] if self.right[1] else float(self.solved)


ReadTexts = Callable[[Collection[str]], Iterator[tuple[str, SampleTexts]]]  # by the ids of samples


@dataclass
class ToolRun:
    """One run of another tool: either an evaluation by one metric, or a speed measurement."""

    tool: str
    path: Path
    task: str  # the runs of a task share a table
    time: str  # as text that sorts by time; of equal evaluations in a folder the newest counts
    params: dict[str, str]
    task_version: str = ""
    samples: list[ToolSample] = field(default_factory=list)
    # by measure; empty for an evaluation
    repeats: dict[str, list[float]] = field(default_factory=dict)
    has_fresh_processes: bool = False  # whether each repeat was a process of its own
    job_id: str = ""  # runs with this id are repeats of one measurement; empty: runs with equal settings are
    facts: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)  # further metrics of the tool's own
    # the direction of its numbers; None: it says right or wrong for each sample
    better: BetterDirection | None = None
    found_at: str = ""  # the path on the command line that it was found at
    texts: ReadTexts | None = None  # reads the texts of samples again, where they are not kept

    @property
    def metric(self) -> str:
        return self.params.get(METRIC, "")

    def load_answers(self) -> Answers:
        """Return the outcome of each sample."""
        return {
            sample.key: QuestionOutcome(sample.solved, None, sample.cluster, sample.right, votes=sample.votes)
            for sample in self.samples
        }

    def load_text_scores(self) -> Texts:
        """Return the log-likelihood of each document; {} if the tool records none."""
        return {}

    def load_metric_values(self) -> Answers:
        return {
            sample.key: QuestionOutcome(False, None, sample.cluster, number=sample.number)
            for sample in self.samples
        }

    def load_answer_texts(
        self, questions: Collection[Question], max_chars: int
    ) -> Iterator[tuple[Question, dict[str, str]]]:
        """Yield the question and answer texts of some samples."""
        shown = {sample.sample_id: sample for sample in self.samples if sample.key in questions}
        kept = (
            (key, SampleTexts(sample.question, sample.answer, sample.text)) for key, sample in shown.items()
        )
        for sample_id, texts in kept if self.texts is None or not shown else self.texts(shown):
            sample = shown[sample_id]
            yield (
                sample.key,
                format_flip_with_question(sample.solved, texts.answer, texts.text, texts.question, max_chars),
            )


@dataclass
class ToolFile:
    """Runs read from one file of another tool, with notes and excluded metrics."""

    runs: list[ToolRun]
    left_out: list[str] = field(default_factory=list)  # metrics that cannot be compared
    # what else a reader of the comparison has to know
    notes: list[str] = field(default_factory=list)
    unfinished: list[MissingJob] = field(default_factory=list)  # jobs that have no result
    without_verdicts: list[str] = field(default_factory=list)  # jobs that only their records compare


def get_sample_cluster(fields: Any, cluster_field: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the cluster of a sample. `cluster_field` names the sample field that defines clusters.

    If the field has no usable value, also return the fields that could define clusters. Such a
    field contains a text or a whole number.
    """
    if cluster_field is None:
        return None, ()
    if not isinstance(fields, dict):
        return None, ()
    value = fields.get(cluster_field)
    if _can_name_cluster(value):
        return str(value), ()
    return None, tuple(key for key, other in fields.items() if _can_name_cluster(other))


def _can_name_cluster(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def to_param_text(value: Any) -> str:
    """Format a value as MLflow formats params."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def flatten_params(group: str, values: Any) -> dict[str, str]:
    """Return the set values of an object as params `GROUP.KEY`."""
    pairs = values.items() if isinstance(values, dict) else ()
    return {f"{group}.{key}": to_param_text(value) for key, value in pairs if value is not None}


def require_unique_sample_ids(path: Path, samples: Iterable[ToolSample]) -> None:
    seen = set[str]()
    for sample in samples:
        if sample.sample_id in seen:
            raise DataError(f"sample {sample.sample_id} is duplicated", key=path, code="damaged")
        seen.add(sample.sample_id)
    if not seen:
        raise DataError("there is no sample in it", key=path, code="empty")


def check_reported_mean(metric: str, mean: float, averaged_items: str, source: str, reported: object) -> None:
    written = to_finite_number(reported)
    if written is None or not math.isclose(mean, written, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        says = str(reported)[:40]
        raise DataError(
            f"{metric} is {mean:.6g} over the {averaged_items}, but {source} reports {says}. "
            "Use unmodified result files",
            code="mismatch",
        )


def format_flip_with_question(
    is_correct: bool, answer: str | None, text: str, question: str, max_chars: int
) -> dict[str, str]:
    side = format_flip_side(Verdict.correct if is_correct else Verdict.wrong, answer, text, max_chars)
    return side | {"question": format_flip_side(Verdict.correct, None, question, max_chars)["text"]}


def to_finite_number(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, bool | int | float) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None
