"""What a reader of another tool's results returns: evaluations with verdicts or numbers, and
measurements of speed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from runner_base import DataError, Verdict
from runner_compare.metrics import Better
from runner_compare.model.answer_votes import Votes
from runner_compare.model.data import Answers, Question, QuestionOutcome, side_of

LONGEST_TEXT = 4000  # characters of an answer that are kept: its end, as the page of samples shows
METRIC = "task.metric"
TOLERANCE = 1e-9  # by which a mean may differ from what was written, of itself where it is above 1: the order of a sum


class SampleTexts(NamedTuple):
    """What is shown of a sample."""

    question: str
    answer: str | None  # what was extracted from the text
    text: str


@dataclass(slots=True)
class ToolSample:
    """How one sample of an evaluation was answered."""

    sample_id: str
    question: str  # or its hash, where texts are read again
    gold: str
    solved: bool
    answer: str | None = None  # what was extracted from the text
    text: str = ""
    has_error: bool = False
    # of several answers to it: how many are right, and how many there are
    right: tuple[int, int] = (0, 0)
    votes: Votes | None = None  # how several answers vote, if what each of them says is known
    number: float | None = None  # its score; None: the tool has written none
    cluster: str | None = None  # the family that it belongs to, with --cluster
    fields: tuple[str, ...] = ()  # where it has no such family: what --cluster could name
    key: Question = (0, "", "")  # equal samples of a task have the same one in all runs

    @property
    def share(self) -> float:
        """The share of right answers: 0 or 1 for a single one."""
        return self.right[0] / self.right[1] if self.right[1] else float(self.solved)


ReadTexts = Callable[[Collection[str]], Iterator[tuple[str, SampleTexts]]]  # by the ids of samples


@dataclass
class ToolRun:
    """One evaluation by one metric, or one measurement of speed, as another tool has written it."""

    tool: str
    path: Path
    task: str  # the runs of a task share a table
    time: str  # as text that sorts by time; of equal evaluations in a folder the newest counts
    params: dict[str, str]
    task_version: str = ""
    samples: list[ToolSample] = field(default_factory=list)
    # by measure; empty for an evaluation
    repeats: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)  # further metrics of the tool's own
    # the direction of its numbers; None: it says right or wrong for each sample
    better: Better | None = None
    found_at: str = ""  # the path on the command line that it was found at
    texts: ReadTexts | None = None  # reads the texts of samples again, where they are not kept

    @property
    def metric(self) -> str:
        """What the samples were scored by."""
        return self.params.get(METRIC, "")

    def answers(self) -> Answers:
        """Return which samples were answered correctly."""
        return {
            sample.key: QuestionOutcome(sample.solved, None, sample.cluster, sample.right, votes=sample.votes)
            for sample in self.samples
        }

    def number_answers(self) -> Answers:
        return {
            sample.key: QuestionOutcome(False, None, sample.cluster, number=sample.number)
            for sample in self.samples
        }

    def words(self, wanted: Collection[Question], most: int) -> Iterator[tuple[Question, dict[str, str]]]:
        """Yield the answers to some samples."""
        shown = {sample.sample_id: sample for sample in self.samples if sample.key in wanted}
        kept = (
            (key, SampleTexts(sample.question, sample.answer, sample.text)) for key, sample in shown.items()
        )
        for sample_id, texts in kept if self.texts is None or not shown else self.texts(shown):
            sample = shown[sample_id]
            yield (
                sample.key,
                side_with_question(sample.solved, texts.answer, texts.text, texts.question, most),
            )


@dataclass
class ToolFile:
    """What one file holds."""

    runs: list[ToolRun]
    left_out: list[str] = field(default_factory=list)  # metrics that cannot be compared
    # what else a reader of the comparison has to know
    notes: list[str] = field(default_factory=list)


def family_of(fields: Any, cluster: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the family that an object's field names, or all fields that could name one: a text or
    a whole number."""
    if cluster is None:
        return None, ()
    if not isinstance(fields, dict):
        return None, ()
    value = fields.get(cluster)
    if _names_family(value):
        return str(value), ()
    return None, tuple(key for key, other in fields.items() if _names_family(other))


def _names_family(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def text_of(value: Any) -> str:
    """Return a value as MLflow's params store it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def params_of(group: str, values: Any) -> dict[str, str]:
    """Return an object's values as settings of a group, without those that are not set."""
    pairs = values.items() if isinstance(values, dict) else ()
    return {f"{group}.{key}": text_of(value) for key, value in pairs if value is not None}


def check_samples_differ(path: Path, samples: Iterable[ToolSample]) -> None:
    """Raise DataError if a sample is duplicated, or if there is none."""
    seen = set[str]()
    for sample in samples:
        if sample.sample_id in seen:
            raise DataError(f"sample {sample.sample_id} is duplicated", key=path, code="damaged")
        seen.add(sample.sample_id)
    if not seen:
        raise DataError("there is no sample in it", key=path, code="empty")


def check_mean(figure: str, mean: float, over: str, source: str, logged: object) -> None:
    """Raise DataError if a mean is not the one that was written."""
    written = as_number(logged)
    if written is None or not math.isclose(mean, written, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        says = str(logged)[:40]
        raise DataError(
            f"{figure} is {mean:.6g} over its {over}, but {source} says {says}: one of them was changed",
            code="mismatch",
        )


def side_with_question(
    solved: bool, answer: str | None, text: str, question: str, most: int
) -> dict[str, str]:
    """Return one side of a flip with the end of its question."""
    side = side_of(Verdict.correct if solved else Verdict.wrong, answer, text, most)
    return side | {"question": side_of(Verdict.correct, None, question, most)["text"]}


def as_number(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, bool | int | float) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None
