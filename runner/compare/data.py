"""What a comparison is made of, as plain data: runs, answers, rows, tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from runner.core.effects import Effect
from runner.core.errors import few
from runner.core.metrics import LOG_LIKELIHOODS, score
from runner.core.result import Likelihood
from runner.core.stats import wilson_interval

ABSENT = "–"
JOB_ID = "job_id"
IDS = (JOB_ID, "run_id", "task")  # no config keys, but ways to name runs
EXTRACTOR = "task.extractor"
TEXT_END = 400  # characters of a text that are shown: the answer stands at the end

Question = tuple[int, str, str]  # index, question, gold: two answers are a pair where all three agree


class NotPaired(Exception):
    """Two runs cannot be compared in pairs; the message says why."""


@dataclass
class Run:
    """One finished run as MLflow has it, or several that --by pools."""

    run_id: str
    job_id: str
    task: str
    task_version: str
    folder: str
    params: dict[str, str]
    metrics: dict[str, float]
    grid: str = ""  # the MLflow run of its grid
    artifacts: str = ""  # where MLflow has its files
    facts: dict[str, str] = field(default_factory=dict)  # words about the run: where it was measured, beside what
    errors: int = 0  # questions without an answer, for which the job has FAILED
    parts: list[Run] = field(default_factory=list)  # the pooled runs
    earlier: list[Run] = field(default_factory=list, repr=False)  # of the same job, the newest first

    def value(self, key: str) -> str | None:
        """Return a config key's, an id's or a metric's value as text, or None where this run has none."""
        if key in IDS:
            return str(getattr(self, key))
        number = self.metrics.get(key)
        return self.params.get(key, None if number is None else repr(number).removesuffix(".0"))

    @property
    def asked(self) -> int | None:
        """Up to which question its numbers go, where the job stopped early; None: it put all of them."""
        return int(self.metrics["questions_asked"]) if self.metrics.get("questions_left") else None

    @property
    def stopped_early(self) -> bool:
        """Whether it, or any of what is put together, stopped when a difference was decided."""
        return any(part.asked is not None for part in self.parts or [self])

    @property
    def score(self) -> tuple[int, int] | None:
        """How many of how many questions it solved; None where it has no verdicts."""
        return score(self.metrics)

    @property
    def unit(self) -> str | None:
        """What its log-likelihood is divided by; None where it has none."""
        return next((unit for unit, key in LOG_LIKELIHOODS.items() if key in self.metrics), None)

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """The accuracy and its 95 % interval, from the counts; None where no question was answered."""
        if self.score is None or not self.score[1]:
            return None
        correct, n = self.score
        return correct / n, *wilson_interval(correct, n)


class QuestionOutcome(NamedTuple):
    """Whether a run solved a question, and the prompt that put it, by its hash."""

    solved: bool
    prompt: str | None


Answers = dict[Question, QuestionOutcome]


class TextScore(NamedTuple):
    """How likely a run finds a given text; what it stands behind is known by its hash."""

    text: tuple[str | None, str | None]
    prompt: str | None
    tokens: tuple[int, ...]
    found: Likelihood


Texts = dict[int, TextScore]


@dataclass
class Flip:
    """A question that one of two runs solved and the other did not."""

    index: int
    question: str
    gold: str
    ours: dict[str, str]  # verdict, answer, text
    theirs: dict[str, str]
    won: bool  # whether this run solved it, and the baseline did not


@dataclass
class Flips:
    """The flips between a run and its baseline, and how many questions came out in each of the four ways."""

    job_id: str
    baseline_job_id: str
    won: int
    lost: int
    both_right: int
    both_wrong: int
    questions: list[Flip]  # as many of the won and lost ones as there is room for


ALONE_KEYS = "workers=1 hydra.launcher.fresh=true rerun=all"  # so that each job of a grid is measured by itself


@dataclass
class Standing:
    """Where a row stands on an axis of the front; two rows differ beyond noise where low to high do not touch."""

    value: float
    low: float
    high: float
    runs: int = 1  # whose mean it is


@dataclass
class TableRow:
    """One run of a table: the config keys in which the runs differ, and how it compares."""

    run: Run
    config: dict[str, str | None]
    is_baseline: bool = False
    baseline: TableRow | None = None  # what it was compared with
    effects: list[Effect] = field(default_factory=list)  # one, or one for each measure that was repeated
    note: str | None = None  # why there is no comparison
    sentence: str = ""  # what the comparison shows, in words
    panel: tuple[str, ...] = ()  # which questions it answered, where the rows differ in these
    on_front: bool | None = None  # the Pareto front of accuracy, memory and speed; None where it is no part of it
    standing: dict[str, Standing] = field(default_factory=dict)  # by the front's axes, besides accuracy
    dominated_by: str | None = None
    dominated_in: list[str] = field(default_factory=list)  # the axes in which that row is better beyond noise
    off_front: str | None = None  # why its speed and memory are no part of it

    @property
    def effect(self) -> Effect | None:
        """How far it is from its baseline in what the table is about; None where there is no such comparison."""
        return next((it for it in self.effects if not it.is_ratio), None)

    @property
    def ratios(self) -> list[Effect]:
        """How its repeats compare, measure by measure."""
        return [it for it in self.effects if it.is_ratio]


@dataclass
class Table:
    """All runs of one task; keys are the config keys in which they differ."""

    task: str
    keys: list[str]
    rows: list[TableRow]
    baseline: dict[str, str] = field(default_factory=dict)
    common: dict[str, str] = field(default_factory=dict)  # the config keys in which they agree
    axes: list[str] = field(default_factory=list)  # the metrics that the front is drawn over, besides accuracy
    noise: dict[str, str] = field(default_factory=dict)  # by axis: from which difference on two rows differ
    front_pairs: int = 0  # of rows that the front compares
    dominated: str = ""  # which rows are dominated, by which and in what, in words
    without_memory: list[str] = field(default_factory=list)  # rows for whose sake memory is no axis
    flips: list[Flips] = field(default_factory=list)

    @property
    def scored(self) -> bool:
        """Whether this is a table of accuracies."""
        return any(row.run.score for row in self.rows)

    @property
    def unit(self) -> str | None:
        """What the log-likelihoods of this table are divided by; None where it is no table of how likely texts are."""
        units = {row.run.unit for row in self.rows}
        return units.pop() if len(units) == 1 else None

    @property
    def has_ratios(self) -> bool:
        """Whether repeats were compared."""
        return any(row.ratios for row in self.rows)

    @property
    def sentences(self) -> list[str]:
        """What the comparisons show, in words, and what the front shows."""
        return [row.sentence for row in self.rows if row.sentence] + self.front_sentences

    @property
    def front_sentences(self) -> list[str]:
        """Which rows are dominated and in what, and what is left out of the front."""
        found = [self.dominated] if self.dominated else []
        if self.without_memory:
            found.append(
                f"the Pareto front goes without memory: {few(self.without_memory, 4)} do"
                f"{'es' * (len(self.without_memory) == 1)} not say what the model held of its own (model_mib)"
            )
        left_out = [f"{row.run.job_id} ({row.off_front})" for row in self.rows if row.off_front]
        if left_out:
            count = f"the Pareto front counts {len(self.rows) - len(left_out)} of {len(self.rows)} runs"
            found.append(
                f"{count if self.axes else 'no Pareto front'}: speed counts only where a job had a process and the "
                "machine to itself, on one kind of machine. Left out: "
                f"{few(left_out, 4 if self.axes else 1)}. To count them, run the jobs again on an idle machine with "
                f"{ALONE_KEYS}"
            )
        return found

    def row(self, job_id: str) -> TableRow:
        """Return the row of a job."""
        return next(row for row in self.rows if row.run.job_id == job_id)


def label(key: str) -> str:
    """Return a config key as it is shown: quantization.name is quantization."""
    return key.removesuffix(".name")


def group(key: str) -> str:
    """Return the config group that a key stands in."""
    return key.partition(".")[0]


def named_groups(keys: Iterable[str]) -> set[str]:
    """Return the config groups whose choice is among these keys."""
    return {group(key) for key in keys if key.endswith(".name")}
