"""Data classes of a comparison: runs, answers, table rows and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from runner_base import Sample, Verdict
from runner_base.named_jobs import JobReference
from runner_base.notes import Note
from runner_compare.metrics import ACCURACY, BOUNDS, LOG_LIKELIHOODS, correct_and_total
from runner_compare.model.outcomes import AccuracyBounds as AccuracyBounds
from runner_compare.model.outcomes import Answers as Answers
from runner_compare.model.outcomes import Question as Question
from runner_compare.model.outcomes import QuestionOutcome as QuestionOutcome
from runner_compare.model.outcomes import Texts as Texts
from runner_compare.model.outcomes import TextScore as TextScore
from runner_compare.statistics import Decision
from runner_compare.statistics.stats import compute_wilson_interval
from runner_compare.statistics.unread_answers import EXTRACTOR as EXTRACTOR
from runner_compare.statistics.unread_answers import SCORER as SCORER

TEAM = "team"  # what a team of agents is, in words: with --teams

SectionData = TypeVar("SectionData")

ABSENT = "–"
JOB_ID = "job_id"
REPEAT = "task.repeat_index"  # above 0: the same job again, to see its noise
IDS = (JOB_ID, "run_id", "task")  # not config keys, but they also name runs
CLUSTER = "task.cluster"
# the fact that names the job that a run was compared with while it ran
EARLY_STOP = "early_stop_vs"
FINAL_TEST_PART = "early_stop_final_test_part"
MAX_NAMED = 4  # jobs in a sentence
ALONE_KEYS = (
    "workers=1 hydra.launcher.fresh=true rerun=all"  # so that each job of a grid is measured by itself
)
ENGINE = "model.engine.name"  # of runs that another program has computed here; no key of a job, but a fact
OWN_ENGINE = "runner"
TEXT_END = 400  # characters of a text that are shown: the answer is at the end


class NotPaired(Exception):
    """Raised if two runs cannot be compared in pairs. The message gives the reason."""


class TooFewPairs(NotPaired):
    """Raised if there are too few pairs for a valid test. The message names the required number."""


@dataclass
class Run:
    """One finished run, or several runs that the option --by has pooled."""

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

    def get_value(self, key: str) -> str | None:
        """Return a config key's value, an id or a metric as text; None if the run lacks it."""
        if key in IDS:
            return str(getattr(self, key))
        if key == ENGINE and key not in self.params:
            return OWN_ENGINE if "model.base_url" not in self.params else None
        number = self.metrics.get(key)
        return self.params.get(key, None if number is None else repr(number).removesuffix(".0"))

    @property
    def num_questions_when_stopped(self) -> int | None:
        """Number of questions that were answered before early stopping. None without early stopping."""
        return int(self.metrics["questions_asked"]) if self.metrics.get("questions_left") else None

    @property
    def stopped_early(self) -> bool:
        """Whether the run, or one of its pooled runs, ended by early stopping."""
        return any(part.num_questions_when_stopped is not None for part in self.parts or [self])

    @property
    def compared_while_running(self) -> bool:
        """Whether the run was compared with another run while it was running (early_stop_vs)."""
        return self.stopped_early or any(EARLY_STOP in part.facts for part in self.parts or [self])

    def early_stop_comparisons(self, other_run: Run) -> int | None:
        """Number of comparisons that share the error rate of the early-stopping test. None if it was
        not recorded.
        """
        recorded = self.metrics.get("early_stop_comparisons")
        return int(recorded) if recorded and self._stops_early_against(other_run) else None

    def final_test_part(self, other_run: Run) -> float | None:
        """Part of the error rate for the test after the last question. None if it was not recorded."""
        return self.metrics.get(FINAL_TEST_PART) if self._stops_early_against(other_run) else None

    def _stops_early_against(self, other_run: Run) -> bool:
        compared_with = JobReference.from_fact(self.facts.get(EARLY_STOP, "")).job_id
        return not self.parts and compared_with == other_run.job_id

    @property
    def correct_and_total(self) -> tuple[int, int] | None:
        """Number of correct questions and number of all questions. None if the run has no verdicts.

        Several answers to a question count by their vote.
        """
        return correct_and_total(self.metrics)

    @property
    def max_answers_per_question(self) -> int:
        return int(self.metrics.get("answers_each", 1))

    @property
    def likelihood_unit(self) -> str | None:
        """Unit of the run's log-likelihood, e.g. token; None without a log-likelihood."""
        return next((unit for unit, key in LOG_LIKELIHOODS.items() if key in self.metrics), None)

    @property
    def accuracy_interval(self) -> tuple[float, float, float] | None:
        """Accuracy with lower and upper end of its 95 % interval; None if no question was answered.

        The interval accounts for clusters of dependent questions.
        """
        if self.correct_and_total is None or not self.correct_and_total[1]:
            return None
        if ACCURACY[1] in self.metrics and self.has_dependent_answers:
            return self.metrics[ACCURACY[0]], self.metrics[ACCURACY[1]], self.metrics[ACCURACY[2]]
        correct, n = self.correct_and_total
        return correct / n, *compute_wilson_interval(correct, n)

    @property
    def has_dependent_answers(self) -> bool:
        """Whether the answers depend on each other, because of clusters, several seeds or several
        answers per question.
        """
        return "families" in self.metrics or self.over_seeds or self.max_answers_per_question > 1

    @property
    def accuracy_bounds(self) -> AccuracyBounds | None:
        """Lowest and highest accuracy that the run could have reached without a token limit.

        None if no answer was cut off, or if the number of cut-off answers is unknown.
        """
        if all(key in self.metrics for key in BOUNDS):
            recorded = AccuracyBounds(*(self.metrics[key] for key in BOUNDS))
            return (
                recorded
                if self.has_dependent_answers
                else AccuracyBounds.from_independent_questions(*recorded[:2], int(self.metrics["n"]))
            )
        # an error has no verdict of its own
        cut_off = int(self.metrics.get("cut_off", 0) - self.errors)
        if (
            self.accuracy_interval is None
            or cut_off <= 0
            or self.metrics.keys() & {"families", "answers_each"}
        ):
            return None
        correct, n = self.correct_and_total or (0, 0)
        return AccuracyBounds.from_independent_questions(correct / n, (correct + cut_off) / n, n)


def question_identity(sample: Sample) -> Question:
    """Return the key that identifies a sample's question: index, text and gold answer."""
    return sample.index, sample.question or "", sample.gold or ""


def format_flip_side(
    verdict: Verdict, answer: str | None, text: str, max_chars: int = TEXT_END
) -> dict[str, str]:
    shown = text if len(text) <= max_chars else "…" + text[-max_chars:]
    return {"verdict": verdict.value, "answer": ABSENT if answer is None else answer, "text": shown}


@dataclass
class AxisValue:
    """A run's value on one axis of the Pareto front, with a 95 % interval from repeated runs.

    Without several runs, the interval is half of the tolerance in each direction.
    """

    value: float
    low: float
    high: float
    runs: int = 1  # the number of runs whose geometric mean it is


@dataclass
class TableRow:
    """A table row: a run, the config keys that distinguish it, and its comparison with the baseline."""

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
    standing: dict[str, AxisValue] = field(default_factory=dict)
    dominated_by: str | None = None
    # the axes in which the dominating row is better beyond noise
    dominated_in: list[str] = field(default_factory=list)
    # by how much the dominating row is more accurate, as a comparison of the two says
    accuracy_behind: float = 0.0
    off_front: Note | None = None  # why what it has measured is not considered

    @property
    def effect(self) -> Decision | None:
        """The row's difference from the baseline in accuracy or log-likelihood. None if the row was not
        compared.
        """
        return next((effect for effect in self.effects if not effect.is_ratio), None)

    def add_notes(self, *notes: Note | None) -> None:
        """Add notes to the row's difference from the baseline."""
        self.effects = [effect if effect.is_ratio else effect.with_notes(*notes) for effect in self.effects]

    @property
    def ratio_effects(self) -> list[Decision]:
        """Comparisons of repeated measurements with the baseline, one per measure."""
        return [effect for effect in self.effects if effect.is_ratio]


@dataclass
class Table:
    """All compared runs of one task, with the config keys in which they differ."""

    task: str
    keys: list[str]
    rows: list[TableRow]
    baseline: dict[str, str] = field(default_factory=dict)
    common: dict[str, str] = field(default_factory=dict)  # the config keys in which they agree
    # what is quantized in name more than in fact
    remarks: list[Note] = field(default_factory=list)
    # what sections have computed, each by a class of its own
    kept: dict[type, Any] = field(default_factory=dict)

    def get_section_data(self, data_class: type[SectionData]) -> SectionData:
        """Return the data that a section stored about this table. The first call creates an empty object."""
        kept: SectionData = self.kept.setdefault(data_class, data_class())
        return kept

    @property
    def has_accuracies(self) -> bool:
        """Whether the table compares accuracies."""
        return any(row.run.correct_and_total for row in self.rows)

    @property
    def likelihood_unit(self) -> str | None:
        """Unit of the table's log-likelihoods; None if the table has none."""
        units = {row.run.likelihood_unit for row in self.rows}
        return units.pop() if len(units) == 1 else None

    @property
    def candidate_rows(self) -> list[TableRow]:
        """Rows that are candidates, that is, neither baselines nor repeats of a baseline."""
        return [row for row in self.rows if not row.is_baseline and not row.is_repeat]

    @property
    def compared_rows(self) -> list[TableRow]:
        """Rows with comparisons.

        Repeats of a baseline are included only if there are no other comparisons.
        """
        return self.rows if self.compares_only_repeats else [row for row in self.rows if not row.is_repeat]

    @property
    def compares_only_repeats(self) -> bool:
        """Whether all comparisons of the table are between a baseline and its own repeats."""
        return all(row.is_repeat for row in self.rows if row.effects)

    @property
    def compared_metric(self) -> str | None:
        """Metric per question that the table compares instead of accuracy, or None."""
        return self.rows[0].run.number if self.rows else None

    @property
    def has_ratios(self) -> bool:
        """Whether the table compares repeated measurements."""
        return any(row.ratio_effects for row in self.rows)

    def find_row(self, job_id: str) -> TableRow:
        return next(row for row in self.rows if row.run.job_id == job_id)


def key_label(key: str) -> str:
    """Return a config key for display, e.g. `quantization` for quantization.name."""
    return key.removesuffix(".name")


def config_group(key: str) -> str:
    return key.partition(".")[0]


def get_natural_sort_key(value: str | None) -> tuple[int, float, str]:
    """Return a sort key that orders missing values first, then numbers, then text."""
    try:
        return (0, 0.0, "") if value is None else (1, float(value), "")
    except ValueError:
        return 2, 0.0, str(value)
