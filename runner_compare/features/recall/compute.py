"""Computes how well a run recalls facts from long texts, by length and depth, and its effective
context length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from runner_base import ConfigError
from runner_compare.model.compared_parts import (
    compare_runs_per_question_subset,
    decide_comparisons_of_all_subsets,
    load_row_answers,
    pair_rows_with_baselines,
)
from runner_compare.model.data import Table, TableRow
from runner_compare.model.error_families import ErrorFamily, list_row_error_families
from runner_compare.model.mean_pairs import Pairs
from runner_compare.model.outcomes import Answers, QuestionOutcome, RecallPosition
from runner_compare.reader import Reader
from runner_compare.statistics import ALPHA, Decision, MeanFlipTest, RunComparison, accuracy_interval
from runner_compare.statistics.effective_length import (
    EffectiveLength,
    compute_recall_loss_tests,
    find_effective_context_length,
)
from runner_compare.statistics.effects import Test
from runner_compare.ways.verdicts import create_mcnemar_test, run_test_with_truncation_bounds

if TYPE_CHECKING:
    from runner_compare.statistics.lost_depths import DepthAnswer, LostDepths

OPTION = "--recall-margin"
RECALL = "recall_accuracy"  # a metric that only jobs have that asked for something in long texts
JOB_MARGIN = "task.margin"  # in points

MARGIN = 0.1  # the loss of recall that is accepted, unless the user names another

OutcomeKey = tuple[str, float | None, str | None, int]


@dataclass(frozen=True)
class CellRecall:
    """Recall on the questions with one depth and one text length."""

    answers: int
    right: float  # of several answers to a question, the share of right ones counts

    @property
    def accuracy(self) -> float:
        return self.right / self.answers


@dataclass(frozen=True)
class LengthRecall:
    """Recall at one text length, with a 95 % confidence interval."""

    length: int
    answers: int
    questions: int  # that are independent
    share: float
    low: float
    high: float
    cut_off: int
    # its answers beside those at the shortest length; None: it is that one
    against_shortest: RunComparison | None


@dataclass(frozen=True)
class RecallFindings:
    """Recall results of one run, by text length, depth and kind of question."""

    outcomes: tuple[QuestionOutcome, ...]
    margin: float = MARGIN
    settings: int = 1  # that share the error of effective lengths, and that of depths
    sharing: int = 0  # of these, settings among which the level of kept lengths is divided; 0: all

    @cached_property
    def question_kinds(self) -> list[str]:
        """Kinds of questions, in order of their first answer."""
        return list(dict.fromkeys(asked.kind for asked in self._positions))

    @cached_property
    def depths(self) -> list[float]:
        """Depths (relative positions of needles in the text) that the questions cover."""
        return sorted({asked.depth for asked in self._positions if asked.depth is not None})

    @cached_property
    def length_recalls(self) -> list[LengthRecall]:
        """Recall at each text length, shortest first."""
        return compute_recall_by_length(self.outcomes)

    @cached_property
    def effective_length(self) -> EffectiveLength | None:
        """Effective context length; None if it cannot be determined."""
        return compute_effective_context_length(self.length_recalls, self.margin, *self.significance_levels)

    @property
    def significance_levels(self) -> tuple[float, float]:
        """Significance levels of two tests: for a recall loss, and for the absence of a loss."""
        return ALPHA / self.settings, ALPHA / (self.sharing or self.settings)

    @cached_property
    def effective_length_by_question_kind(self) -> dict[str, EffectiveLength | None]:
        """Effective context length per kind of question, with simultaneous intervals.

        The mapping is empty if there is only one kind.
        """
        if len(self.question_kinds) < 2:
            return {}
        own = {
            kind: [outcome for outcome in self.outcomes if outcome.recall and outcome.recall.kind == kind]
            for kind in self.question_kinds
        }
        level = ALPHA / self.settings / len(self.question_kinds)
        return {
            kind: compute_effective_context_length(compute_recall_by_length(outcomes), self.margin, level)
            for kind, outcomes in own.items()
        }

    @cached_property
    def lost_depths(self) -> list[LostDepths]:
        """Range of depths with the lowest recall, for each text length."""
        from runner_compare.statistics.lost_depths import find_depths_with_recall_loss  # imports numpy

        return find_depths_with_recall_loss(self.answers_with_single_needle_depth, self.settings)

    @property
    def answers_with_single_needle_depth(self) -> list[DepthAnswer]:
        """Answers to questions whose needle is at a single depth."""
        from runner_compare.statistics.lost_depths import DepthAnswer

        return [
            DepthAnswer(asked.length, asked.depth, outcome.accuracy, asked.kind, outcome.cluster)
            for outcome in self.outcomes
            if (asked := outcome.recall) is not None and asked.depth is not None
        ]

    @cached_property
    def num_haystacks(self) -> int:
        """Number of haystack texts."""
        return len({asked.text for asked in self._positions if asked.text is not None}) or 1

    @cached_property
    def is_clustered_by_haystack(self) -> bool:
        """Whether questions are clustered by haystack, so that results generalize to other haystacks."""
        return any(outcome.is_clustered_by_text for outcome in self.outcomes)

    @property
    def is_too_low(self) -> bool:
        """Whether recall at the shortest length is too low to detect a loss as large as the margin."""
        return self.length_recalls[0].low <= self.margin

    @cached_property
    def units_needed_per_context_length(self) -> int:
        """Estimated number of independent units per length needed to decide the shortest undecided length.

        The units are haystacks if questions are clustered by haystack, and otherwise questions. The
        estimate assumes that no recall is lost there.
        """
        level = self.significance_levels[1]
        at_least = math.floor(math.log(level / 2) / math.log(1 - self.margin)) + 1
        found = self.effective_length
        if found is None:
            return at_least
        length = self.length_recalls[found.reached + 1]
        undecided = length.against_shortest
        if not undecided or not undecided.test.can_plan:
            return at_least
        answers = undecided.test.plan_sample_size_for_margin(self.margin, level) or 0
        return max(at_least, math.ceil(answers * length.questions / length.answers))

    def recall_at(self, length: int, depth: float | None) -> CellRecall | None:
        """Return the recall at one length and depth, or None without questions.

        `depth=None` selects questions without a single depth.
        """
        return _cell_recall(
            [
                outcome
                for outcome in self.outcomes
                if outcome.recall and outcome.recall[1:3] == (length, depth)
            ]
        )

    def recall_of_kind(self, kind: str, length: int) -> CellRecall | None:
        return _cell_recall(
            [outcome for outcome in self.outcomes if outcome.recall and outcome.recall[:2] == (kind, length)]
        )

    @property
    def _positions(self) -> list[RecallPosition]:
        return [outcome.recall for outcome in self.outcomes if outcome.recall is not None]


def _cell_recall(outcomes: Sequence[QuestionOutcome]) -> CellRecall | None:
    shares = [outcome.accuracy for outcome in outcomes]
    return CellRecall(len(shares), math.fsum(shares)) if shares else None


def compute_recall_by_length(outcomes: Sequence[QuestionOutcome]) -> list[LengthRecall]:
    of_length: dict[int, list[QuestionOutcome]] = {}
    for outcome in outcomes:
        if outcome.recall is not None:
            of_length.setdefault(outcome.recall.length, []).append(outcome)
    lengths = sorted(of_length)
    return [_compute_recall_at_length(length, of_length[length], of_length[lengths[0]]) for length in lengths]


def _compute_recall_at_length(
    length: int, outcomes: Sequence[QuestionOutcome], shortest_outcomes: Sequence[QuestionOutcome]
) -> LengthRecall:
    shares, families = [outcome.accuracy for outcome in outcomes], get_cluster_of_each_answer(outcomes)
    low, high = accuracy_interval(shares, families)
    compared = None
    if outcomes is not shortest_outcomes:
        pairs = pair_with_shortest_length(outcomes, shortest_outcomes)
        compared = run_test_with_truncation_bounds(_create_recall_test_at_length, pairs) if pairs else None
    return LengthRecall(
        length=length,
        answers=len(outcomes),
        questions=len(outcomes) if None in families else len(set(families)),
        share=math.fsum(shares) / len(shares),
        low=low,
        high=high,
        cut_off=sum(outcome.cut_off for outcome in outcomes),
        against_shortest=compared,
    )


def get_cluster_of_each_answer(outcomes: Sequence[QuestionOutcome]) -> list[str | None]:
    """Return the cluster of each answer.

    All clusters are None if each cluster has a single answer.
    """
    clusters = [outcome.cluster for outcome in outcomes]
    if None in clusters or len(set(clusters)) == len(clusters):
        return [None] * len(clusters)
    return clusters


def pair_with_shortest_length(
    outcomes: Sequence[QuestionOutcome], shortest_outcomes: Sequence[QuestionOutcome]
) -> Pairs:
    keyed, base = _index_outcomes_by_question(outcomes), _index_outcomes_by_question(shortest_outcomes)
    return [(outcome, base[key]) for key, outcome in keyed.items() if key in base]


def _index_outcomes_by_question(outcomes: Sequence[QuestionOutcome]) -> dict[OutcomeKey, QuestionOutcome]:
    """Index outcomes by question kind, depth and question.

    Repeated questions get consecutive numbers.
    """
    keyed: dict[OutcomeKey, QuestionOutcome] = {}
    counts: dict[tuple[str, float | None, str | None], int] = {}
    for outcome in outcomes:
        assert outcome.recall is not None
        same = outcome.recall.kind, outcome.recall.depth, outcome.cluster
        counts[same] = counts.get(same, 0) + 1
        keyed[*same, counts[same]] = outcome
    return keyed


def _create_recall_test_at_length(pairs: Pairs) -> Test:
    families = get_cluster_of_each_answer([own for own, _ in pairs])
    samples = max(outcome.num_answers for pair in pairs for outcome in pair)
    if families[0] is None and samples == 1:
        return create_mcnemar_test(pairs)
    clusters = None if families[0] is None else families
    in_texts = clusters is not None and any(own.is_clustered_by_text for own, _ in pairs)
    return MeanFlipTest(
        [own.accuracy - base.accuracy for own, base in pairs],
        clusters,
        "text" if in_texts else "question",
        samples,
        is_strict=not in_texts,
    )


def compute_effective_context_length(
    lengths: Sequence[LengthRecall], margin: float, alpha: float = ALPHA, no_loss_alpha: float | None = None
) -> EffectiveLength | None:
    """Return the effective context length, or None if it cannot be determined.

    It is None for a single length, and for recall near zero at the first one.
    """
    if (
        len(lengths) < 2
        or lengths[0].low <= margin
        or any(length.against_shortest is None for length in lengths[1:])
    ):
        return None
    compared = [length.against_shortest for length in lengths if length.against_shortest is not None]
    tests = [compute_recall_loss_tests(against.test, margin, against.ends) for against in compared]
    return find_effective_context_length([length.length for length in lengths], tests, alpha, no_loss_alpha)


def divide_error_rate(findings: Mapping[str, RecallFindings]) -> dict[str, RecallFindings]:
    """Divide the error rate of 5 % among the effective context lengths of all configurations.

    All intervals then hold simultaneously with 95 % confidence. Configurations without a loss at
    any length pass their part of the error rate to the others.
    """
    count = sharing = max(1, len(findings))
    while True:
        left = max(1, count - sum(_has_no_recall_loss(own, count, sharing) for own in findings.values()))
        if left == sharing:
            break
        sharing = left
    return {name: replace(own, settings=count, sharing=sharing) for name, own in findings.items()}


def _has_no_recall_loss(findings: RecallFindings, num_settings: int, num_sharing: int) -> bool:
    found = compute_effective_context_length(
        findings.length_recalls, findings.margin, ALPHA / num_settings, ALPHA / num_sharing
    )
    return found is not None and found.reached == len(found.lengths) - 1


@dataclass
class TableRecall:
    """Recall results of a table by run id, with the comparisons at each text length."""

    findings: dict[str, RecallFindings] = field(default_factory=dict)
    compared: dict[str, dict[int, Decision]] = field(default_factory=dict)  # by run id and length


def list_recall_rows(table: Table) -> list[TableRow]:
    findings = table.get_section_data(TableRecall).findings
    return [row for row in table.rows if row.run.run_id in findings]


def table_margin(table: Table) -> float:
    """Return the acceptable recall loss, as a fraction, that defines a table's effective context lengths."""
    return next(iter(table.get_section_data(TableRecall).findings.values())).margin


def get_recorded_recall_margin(table: Table) -> float:
    """Return the recall margin that all jobs of a table recorded, or the default margin if they differ."""
    recorded = {row.run.get_value(JOB_MARGIN) for row in table.rows}
    if len(recorded) > 1 or None in recorded:
        return MARGIN
    return float(recorded.pop() or 0) / 100


def compare_recall_with_baselines(table: Table, reader: Reader) -> None:
    """Compute the recall of each run, and compare it with the baseline's at each text length."""
    kept = table.get_section_data(TableRecall)
    if not table.has_accuracies or not any(RECALL in row.run.metrics for row in table.rows):
        return
    answers = load_row_answers(table, reader, lambda outcome: outcome.recall is not None)
    margin = get_recorded_recall_margin(table)
    kept.findings = divide_error_rate(
        {run_id: RecallFindings(tuple(own.values()), margin) for run_id, own in answers.items() if own}
    )
    compared: dict[str, dict[int, RunComparison]] = {}
    for run, base in pair_rows_with_baselines(table, answers):
        own, other = (_group_answers_by_text_length(answers[side.run_id]) for side in (run, base))
        shared = {length: (own[length], other[length]) for length in sorted(own.keys() & other.keys())}
        compared[run.run_id] = compare_runs_per_question_subset(run, base, shared, reader)
    kept.compared = decide_comparisons_of_all_subsets(compared)


def list_recall_error_families(table: Table) -> list[ErrorFamily]:
    """Return the groups of recall comparisons that share a family-wise error rate.

    The results of a family share one family-wise error rate.
    """
    kept = table.get_section_data(TableRecall)
    findings = [*kept.findings.values()]
    if not findings:
        return []
    counts = {
        "recall at each length": sum(map(len, kept.compared.values())),
        "effective lengths": sum(own.effective_length is not None for own in findings),
        "effective lengths by kind": sum(len(own.effective_length_by_question_kind) for own in findings),
        "depths": sum(len(own.lost_depths) for own in findings),
    }
    return [
        *list_row_error_families(table),
        *(ErrorFamily(what, count) for what, count in counts.items() if count),
    ]


def recompute_effective_lengths_with_margin(tables: list[Table], margin_points: str) -> None:
    """Recompute all effective context lengths with another margin, given in percentage points.

    Raises ConfigError for an invalid margin, or if there is no effective length.
    """
    try:
        share = float(margin_points) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ConfigError(
            "the margin must be above 0 and below 100 points of recall, e.g. 10",
            key=OPTION,
            value=margin_points,
            code="bad_value",
        )
    kept = [table.get_section_data(TableRecall) for table in tables]
    if not any(of_table.findings for of_table in kept):
        raise ConfigError(
            "none of the selected jobs is a task=recall job", key=OPTION, value=margin_points, code="empty"
        )
    for of_table in kept:
        of_table.findings = divide_error_rate(
            {run_id: replace(own, margin=share) for run_id, own in of_table.findings.items()}
        )


def _group_answers_by_text_length(answers: Answers) -> dict[int, Answers]:
    """Group answers by text length.

    Clusters with a single answer each are removed.
    """
    by_length: dict[int, Answers] = {}
    for question, outcome in answers.items():
        if outcome.recall is not None:
            by_length.setdefault(outcome.recall.length, {})[question] = outcome
    return {
        length: {
            question: outcome._replace(cluster=family)
            for (question, outcome), family in zip(
                own.items(), get_cluster_of_each_answer([*own.values()]), strict=True
            )
        }
        for length, own in by_length.items()
    }
