"""The parts of a comparison as plain data: runs, answers, rows, tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from runner_base import Sample, Verdict
from runner_base.named_jobs import NamedJob
from runner_base.notes import Note
from runner_compare.metrics import ACCURACY, BOUNDS, LOG_LIKELIHOODS, score
from runner_compare.model.outcomes import Answers as Answers
from runner_compare.model.outcomes import Bounds as Bounds
from runner_compare.model.outcomes import Question as Question
from runner_compare.model.outcomes import QuestionOutcome as QuestionOutcome
from runner_compare.model.outcomes import Texts as Texts
from runner_compare.model.outcomes import TextScore as TextScore
from runner_compare.statistics import Decision
from runner_compare.statistics.stats import wilson_interval
from runner_compare.statistics.unread_answers import EXTRACTOR as EXTRACTOR
from runner_compare.statistics.unread_answers import SCORER as SCORER

TEAM = "team"  # what a team of agents is, in words: with --teams

Kept = TypeVar("Kept")

ABSENT = "–"
JOB_ID = "job_id"
REPEAT = "task.repeat"  # above 0: the same job again, to see its noise
IDS = (JOB_ID, "run_id", "task")  # not config keys, but they also name runs
CLUSTER = "task.cluster"
# the fact that names the job that a run was compared with while it ran
EARLY_STOP = "early_stop_vs"
MAX_NAMED = 4  # jobs in a sentence
ALONE_KEYS = (
    "workers=1 hydra.launcher.fresh=true rerun=all"  # so that each job of a grid is measured by itself
)
ENGINE = "model.engine.name"  # of runs that another program has computed here; no key of a job, but a fact
OWN_ENGINE = "runner"
TEXT_END = 400  # characters of a text that are shown: the answer is at the end


class NotPaired(Exception):
    """Two runs cannot be compared in pairs; the message says why."""


class TooFew(NotPaired):
    """Two runs are paired, but a test of so few pairs would not hold; the message says how many are
    needed."""


@dataclass
class Run:
    """One finished run in MLflow, or several that --by pools."""

    run_id: str
    job_id: str
    task: str
    task_version: str
    folder: str
    params: dict[str, str]
    metrics: dict[str, float]
    grid: str = ""  # the MLflow run of its grid
    artifacts: str = ""  # where MLflow has its files
    # facts about the run: its machine, other work at the same time
    facts: dict[str, str] = field(default_factory=dict)
    # the metric, a number for each question, that is compared instead of verdicts
    number: str | None = None
    tool: str = ""  # the other tool that has written it; empty: this one has
    # each repeat of a measure was a process of its own, so repeats count as runs
    has_fresh_processes: bool = False
    errors: int = 0  # questions that ended in an error, so that the job has FAILED
    parts: list[Run] = field(default_factory=list)  # the pooled runs
    over_seeds: bool = False  # whether these answered the same questions, each with its own seed
    # runs of the same job, newest first
    earlier: list[Run] = field(default_factory=list, repr=False)

    def value(self, key: str) -> str | None:
        """Return the value of a config key, id or metric as text, or None if the run has none."""
        if key in IDS:
            return str(getattr(self, key))
        if key == ENGINE and key not in self.params:
            return OWN_ENGINE if "model.base_url" not in self.params else None
        number = self.metrics.get(key)
        return self.params.get(key, None if number is None else repr(number).removesuffix(".0"))

    @property
    def stopped_after(self) -> int | None:
        """After how many questions the job stopped early; None if it asked all of them."""
        return int(self.metrics["questions_asked"]) if self.metrics.get("questions_left") else None

    @property
    def stopped_early(self) -> bool:
        """Whether the run, or one of the pooled runs, stopped early because a difference was
        decided."""
        return any(part.stopped_after is not None for part in self.parts or [self])

    @property
    def compared_while_running(self) -> bool:
        """Whether the run, or one of the pooled runs, was compared with another one while it ran
        (early_stop_vs)."""
        return self.stopped_early or any(EARLY_STOP in part.facts for part in self.parts or [self])

    def early_stop_comparisons(self, other: Run) -> int | None:
        """How many comparisons shared 5 % when this run was compared with the other one; None: not
        recorded."""
        compared_with = NamedJob.from_fact(self.facts.get(EARLY_STOP, "")).job_id
        recorded = self.metrics.get("early_stop_comparisons")
        return int(recorded) if recorded and not self.parts and compared_with == other.job_id else None

    @property
    def score(self) -> tuple[int, int] | None:
        """The number of solved questions (of several answers, by their vote) and of all; None
        without verdicts."""
        return score(self.metrics)

    @property
    def answers_each(self) -> int:
        """How many answers each question has, at most."""
        return int(self.metrics.get("answers_each", 1))

    @property
    def unit(self) -> str | None:
        """The unit that its log-likelihood is divided by; None without one."""
        return next((unit for unit, key in LOG_LIKELIHOODS.items() if key in self.metrics), None)

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """The accuracy and its 95 % interval, over families if these are known; None if no question
        was answered."""
        if self.score is None or not self.score[1]:
            return None
        if ACCURACY[1] in self.metrics and self.has_dependent_answers:
            return self.metrics[ACCURACY[0]], self.metrics[ACCURACY[1]], self.metrics[ACCURACY[2]]
        correct, n = self.score
        return correct / n, *wilson_interval(correct, n)

    @property
    def has_dependent_answers(self) -> bool:
        """Whether answers belong together: in families, over seeds, or several to a question."""
        return "families" in self.metrics or self.over_seeds or self.answers_each > 1

    @property
    def bounds(self) -> Bounds | None:
        """What its accuracy would be without a limit; None if no answer was cut off, or if that is
        not known."""
        if all(key in self.metrics for key in BOUNDS):
            recorded = Bounds(*(self.metrics[key] for key in BOUNDS))
            return (
                recorded if self.has_dependent_answers else Bounds.of(*recorded[:2], int(self.metrics["n"]))
            )
        # an error has no verdict of its own
        cut_off = int(self.metrics.get("cut_off", 0) - self.errors)
        if self.interval is None or cut_off <= 0 or self.metrics.keys() & {"families", "answers_each"}:
            return None
        correct, n = self.score or (0, 0)
        return Bounds.of(correct / n, (correct + cut_off) / n, n)


def question_of(sample: Sample) -> Question:
    """Return a question's identity: index, text and gold answer."""
    return sample.index, sample.question or "", sample.gold or ""


def side_of(verdict: Verdict, answer: str | None, text: str, most: int = TEXT_END) -> dict[str, str]:
    """Return one side of a flip as it is shown: of a long text, the end."""
    shown = text if len(text) <= most else "…" + text[-most:]
    return {"verdict": verdict.value, "answer": ABSENT if answer is None else answer, "text": shown}


@dataclass
class Standing:
    """A row's value on an axis of the front, with its 95 % interval over runs, or half of the
    tolerance each way."""

    value: float
    low: float
    high: float
    runs: int = 1  # the number of runs whose geometric mean it is


@dataclass
class TableRow:
    """One run of a table: the config keys in which the runs differ, and how it compares."""

    run: Run
    config: dict[str, str | None]
    is_baseline: bool = False
    is_repeat: bool = False  # the baseline again: its difference is noise
    baseline: TableRow | None = None  # the row that it was compared with
    effects: list[Decision] = field(default_factory=list)  # one, or one for each repeated measure
    note: str | None = None  # why there is no comparison
    panel: tuple[str, ...] = ()  # the keys of its set of questions, if the rows differ in these
    # of accuracy, memory, speed and energy; None: it is not considered for the front
    on_front: bool | None = None
    # by axis of the front, without accuracy
    standing: dict[str, Standing] = field(default_factory=dict)
    dominated_by: str | None = None
    # the axes in which the dominating row is better beyond noise
    dominated_in: list[str] = field(default_factory=list)
    # by how much the dominating row is more accurate, as a comparison of the two says
    accuracy_behind: float = 0.0
    off_front: Note | None = None  # why what it has measured is not considered

    @property
    def effect(self) -> Decision | None:
        """The difference to its baseline in accuracy or log-likelihood; None if it was not
        compared."""
        return next((effect for effect in self.effects if not effect.is_ratio), None)

    def note_beside(self, *remarks: Note | None) -> None:
        """Add remarks to the difference to its baseline."""
        self.effects = [effect if effect.is_ratio else effect.noting(*remarks) for effect in self.effects]

    @property
    def ratios(self) -> list[Decision]:
        """The comparisons of its repeats, one for each measure."""
        return [effect for effect in self.effects if effect.is_ratio]


@dataclass
class Table:
    """All runs of one task; keys are the config keys in which they differ."""

    task: str
    keys: list[str]
    rows: list[TableRow]
    baseline: dict[str, str] = field(default_factory=dict)
    common: dict[str, str] = field(default_factory=dict)  # the config keys in which they agree
    # what is quantized in name more than in fact
    remarks: list[Note] = field(default_factory=list)
    # what sections have computed, each by a class of its own
    kept: dict[type, Any] = field(default_factory=dict)

    def of(self, kind: type[Kept]) -> Kept:
        """Return what a section keeps with the table; an empty one before it has computed
        anything."""
        kept: Kept = self.kept.setdefault(kind, kind())
        return kept

    @property
    def scored(self) -> bool:
        """Whether this is a table of accuracies."""
        return any(row.run.score for row in self.rows)

    @property
    def unit(self) -> str | None:
        """The unit that the table's log-likelihoods are divided by; None for another kind of
        table."""
        units = {row.run.unit for row in self.rows}
        return units.pop() if len(units) == 1 else None

    @property
    def settings(self) -> list[TableRow]:
        """The rows about which something is decided: neither a baseline nor a repeat of one."""
        return [row for row in self.rows if not row.is_baseline and not row.is_repeat]

    @property
    def compared(self) -> list[TableRow]:
        """The rows whose comparisons the legend explains: repeats of a baseline only where nothing
        else is compared."""
        return self.rows if self.only_repeats else [row for row in self.rows if not row.is_repeat]

    @property
    def only_repeats(self) -> bool:
        """Whether the baseline is compared with nothing but itself."""
        return all(row.is_repeat for row in self.rows if row.effects)

    @property
    def number(self) -> str | None:
        """The number of each question that the table compares; None for another kind of table."""
        return self.rows[0].run.number if self.rows else None

    @property
    def has_ratios(self) -> bool:
        """Whether repeats were compared."""
        return any(row.ratios for row in self.rows)

    def row(self, job_id: str) -> TableRow:
        return next(row for row in self.rows if row.run.job_id == job_id)


def label(key: str) -> str:
    """Return a config key as it is shown: `quantization` for quantization.name."""
    return key.removesuffix(".name")


def group(key: str) -> str:
    """Return a key's config group."""
    return key.partition(".")[0]


def natural(value: str | None) -> tuple[int, float, str]:
    """Return a sort key: absent values first, then numbers by size, then words."""
    try:
        return (0, 0.0, "") if value is None else (1, float(value), "")
    except ValueError:
        return 2, 0.0, str(value)
