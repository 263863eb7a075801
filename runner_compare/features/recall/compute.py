"""Recall of one run in long texts, by length and depth, and its effective context length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from runner_base import ConfigError
from runner_compare.model.compared_parts import (
    compare_subsets,
    decide_subsets,
    load_row_answers,
    pair_rows_with_baselines,
)
from runner_compare.model.data import Table, TableRow
from runner_compare.model.error_families import ErrorFamily, row_error_families
from runner_compare.model.mean_pairs import Pairs
from runner_compare.model.outcomes import Answers, QuestionOutcome, RecallPosition
from runner_compare.reader import Reader
from runner_compare.statistics import ALPHA, Decision, MeanFlipTest, RunComparison, accuracy_interval
from runner_compare.statistics.effective_length import (
    EffectiveLength,
    find_effective_length,
    one_sided_length_tests,
)
from runner_compare.statistics.effects import Test
from runner_compare.ways.verdicts import compare_with_cut_off_bounds, create_mcnemar_test

if TYPE_CHECKING:
    from runner_compare.statistics.lost_depths import DepthAnswer, LostDepths

OPTION = "--recall-margin"
RECALL = "recall_accuracy"  # a metric that only jobs have that asked for something in long texts
JOB_MARGIN = "task.margin"  # in points

MARGIN = 0.1  # the loss of recall that is accepted, unless the user names another

Key = tuple[str, float | None, str | None, int]


@dataclass(frozen=True)
class CellRecall:
    """Recall of the questions at one depth and one text length."""

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
        """Depths (positions in the text) that questions ask about."""
        return sorted({asked.depth for asked in self._positions if asked.depth is not None})

    @cached_property
    def length_recalls(self) -> list[LengthRecall]:
        """Recall at each text length, shortest first."""
        return recall_by_length(self.outcomes)

    @cached_property
    def effective_length(self) -> EffectiveLength | None:
        """Effective context length; None if it cannot be determined."""
        return compute_effective_length(self.length_recalls, self.margin, *self.significance_levels)

    @property
    def significance_levels(self) -> tuple[float, float]:
        """Significance levels for showing that recall at a length is lost, and that it is kept."""
        return ALPHA / self.settings, ALPHA / (self.sharing or self.settings)

    @cached_property
    def effective_length_by_kind(self) -> dict[str, EffectiveLength | None]:
        """Effective context length for each kind of question, with simultaneous intervals; {} for
        one kind.
        """
        if len(self.question_kinds) < 2:
            return {}
        own = {
            kind: [outcome for outcome in self.outcomes if outcome.recall and outcome.recall.kind == kind]
            for kind in self.question_kinds
        }
        level = ALPHA / self.settings / len(self.question_kinds)
        return {
            kind: compute_effective_length(recall_by_length(outcomes), self.margin, level)
            for kind, outcomes in own.items()
        }

    @cached_property
    def lost_depths(self) -> list[LostDepths]:
        """Range of depths with the lowest recall, for each text length."""
        from runner_compare.statistics.lost_depths import find_lost_depths  # imports numpy

        return find_lost_depths(self.depth_answers, self.settings)

    @property
    def depth_answers(self) -> list[DepthAnswer]:
        """Answers to questions about a single depth."""
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
        """Whether haystack texts are the clusters, so that results generalize to other haystacks."""
        return any(outcome.is_clustered_by_text for outcome in self.outcomes)

    @property
    def is_too_low(self) -> bool:
        """Whether recall at the shortest length may be below the margin, so that no loss can be
        shown.
        """
        return self.length_recalls[0].low <= self.margin

    @cached_property
    def needed_questions(self) -> int:
        """Approximate number of questions per length that would decide the first undecided length.

        It assumes that no recall is lost there.
        """
        level = self.significance_levels[1]
        at_least = math.floor(math.log(level / 2) / math.log(1 - self.margin)) + 1
        found = self.effective_length
        undecided = found is not None and self.length_recalls[found.reached + 1].against_shortest
        if not undecided or not undecided.test.can_plan:
            return at_least
        return max(at_least, undecided.test.sample_size_for_margin(self.margin, level) or at_least)

    def recall_at(self, length: int, depth: float | None) -> CellRecall | None:
        """Return the recall at a length and depth (None: questions without a single depth); None
        without questions.
        """
        return _cell_recall(
            [
                outcome
                for outcome in self.outcomes
                if outcome.recall and outcome.recall[1:3] == (length, depth)
            ]
        )

    def recall_of_kind(self, kind: str, length: int) -> CellRecall | None:
        """Return the recall for one kind of question at a text length."""
        return _cell_recall(
            [outcome for outcome in self.outcomes if outcome.recall and outcome.recall[:2] == (kind, length)]
        )

    @property
    def _positions(self) -> list[RecallPosition]:
        return [outcome.recall for outcome in self.outcomes if outcome.recall is not None]


def _cell_recall(outcomes: Sequence[QuestionOutcome]) -> CellRecall | None:
    shares = [outcome.accuracy for outcome in outcomes]
    return CellRecall(len(shares), math.fsum(shares)) if shares else None


def recall_by_length(outcomes: Sequence[QuestionOutcome]) -> list[LengthRecall]:
    """Return the recall at each text length, each compared with the shortest length."""
    of_length: dict[int, list[QuestionOutcome]] = {}
    for outcome in outcomes:
        if outcome.recall is not None:
            of_length.setdefault(outcome.recall.length, []).append(outcome)
    lengths = sorted(of_length)
    return [_recall_at_length(length, of_length[length], of_length[lengths[0]]) for length in lengths]


def _recall_at_length(
    length: int, outcomes: Sequence[QuestionOutcome], shortest_outcomes: Sequence[QuestionOutcome]
) -> LengthRecall:
    shares, families = [outcome.accuracy for outcome in outcomes], answer_clusters(outcomes)
    low, high = accuracy_interval(shares, families)
    compared = None
    if outcomes is not shortest_outcomes:
        pairs = pair_with_shortest(outcomes, shortest_outcomes)
        compared = compare_with_cut_off_bounds(_create_length_test, pairs) if pairs else None
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


def answer_clusters(outcomes: Sequence[QuestionOutcome]) -> list[str | None]:
    """Return the cluster of each answer, or None for each if no cluster has several answers."""
    clusters = [outcome.cluster for outcome in outcomes]
    if None in clusters or len(set(clusters)) == len(clusters):
        return [None] * len(clusters)
    return clusters


def pair_with_shortest(
    outcomes: Sequence[QuestionOutcome], shortest_outcomes: Sequence[QuestionOutcome]
) -> Pairs:
    """Pair answers at a length with the answers to the same questions and depths at the shortest
    length.
    """
    keyed, base = _key_outcomes(outcomes), _key_outcomes(shortest_outcomes)
    return [(outcome, base[key]) for key, outcome in keyed.items() if key in base]


def _key_outcomes(outcomes: Sequence[QuestionOutcome]) -> dict[Key, QuestionOutcome]:
    """Map answers by question kind, depth and question. Equal keys are numbered in order."""
    keyed: dict[Key, QuestionOutcome] = {}
    counts: dict[tuple[str, float | None, str | None], int] = {}
    for outcome in outcomes:
        assert outcome.recall is not None
        same = outcome.recall.kind, outcome.recall.depth, outcome.cluster
        counts[same] = counts.get(same, 0) + 1
        keyed[*same, counts[same]] = outcome
    return keyed


def _create_length_test(pairs: Pairs) -> Test:
    """Create the test of answers at one text length against those at the shortest length."""
    families = answer_clusters([own for own, _ in pairs])
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


def compute_effective_length(
    lengths: Sequence[LengthRecall], margin: float, alpha: float = ALPHA, kept_alpha: float | None = None
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
    tests = [one_sided_length_tests(against.test, margin, against.ends) for against in compared]
    return find_effective_length([length.length for length in lengths], tests, alpha, kept_alpha)


def divide_error_rate(findings: Mapping[str, RecallFindings]) -> dict[str, RecallFindings]:
    """Adjust significance levels so that the effective lengths of all settings hold jointly with
    95 %.

    Settings that are shown to reach every length pass their part of the level to the others.
    """
    count = sharing = max(1, len(findings))
    while True:
        left = max(1, count - sum(_reaches_all_lengths(own, count, sharing) for own in findings.values()))
        if left == sharing:
            break
        sharing = left
    return {name: replace(own, settings=count, sharing=sharing) for name, own in findings.items()}


def _reaches_all_lengths(findings: RecallFindings, settings: int, sharing: int) -> bool:
    """Whether recall is shown to be kept at every length, at levels that settings share."""
    found = compute_effective_length(
        findings.length_recalls, findings.margin, ALPHA / settings, ALPHA / sharing
    )
    return found is not None and found.reached == len(found.lengths) - 1


@dataclass
class TableRecall:
    """Recall of a table's rows, by run id, with the comparisons at each text length."""

    findings: dict[str, RecallFindings] = field(default_factory=dict)
    compared: dict[str, dict[int, Decision]] = field(default_factory=dict)  # by run id and length


def recall_rows(table: Table) -> list[TableRow]:
    """Return the table rows of task=recall jobs."""
    findings = table.get_section_data(TableRecall).findings
    return [row for row in table.rows if row.run.run_id in findings]


def table_margin(table: Table) -> float:
    """Return the margin for the effective lengths of a table, as a fraction."""
    return next(iter(table.get_section_data(TableRecall).findings.values())).margin


def recorded_margin(table: Table) -> float:
    """Return the margin that all jobs of a table recorded; the default if they differ."""
    recorded = {row.run.get_value(JOB_MARGIN) for row in table.rows}
    if len(recorded) > 1 or None in recorded:
        return MARGIN
    return float(recorded.pop() or 0) / 100


def compute_recall(table: Table, reader: Reader) -> None:
    """Read the answers of each row, and compare them with the baseline's at each text length."""
    kept = table.get_section_data(TableRecall)
    if not table.has_accuracies or not any(RECALL in row.run.metrics for row in table.rows):
        return
    answers = load_row_answers(table, reader, lambda outcome: outcome.recall is not None)
    margin = recorded_margin(table)
    kept.findings = divide_error_rate(
        {run_id: RecallFindings(tuple(own.values()), margin) for run_id, own in answers.items() if own}
    )
    compared: dict[str, dict[int, RunComparison]] = {}
    for run, base in pair_rows_with_baselines(table, answers):
        own, other = (_group_by_length(answers[side.run_id]) for side in (run, base))
        shared = {length: (own[length], other[length]) for length in sorted(own.keys() & other.keys())}
        compared[run.run_id] = compare_subsets(run, base, shared, reader)
    kept.compared = decide_subsets(compared)


def recall_error_families(table: Table) -> list[ErrorFamily]:
    """Return the families of recall statements that share one error rate."""
    kept = table.get_section_data(TableRecall)
    findings = [*kept.findings.values()]
    if not findings:
        return []
    counts = {
        "recall at each length": sum(map(len, kept.compared.values())),
        "effective lengths": sum(own.effective_length is not None for own in findings),
        "effective lengths by kind": sum(len(own.effective_length_by_kind) for own in findings),
        "depths": sum(len(own.lost_depths) for own in findings),
    }
    return [
        *row_error_families(table),
        *(ErrorFamily(what, count) for what, count in counts.items() if count),
    ]


def apply_recall_margin(tables: list[Table], margin_points: str) -> None:
    """Recompute the effective lengths of tables with another margin, in percentage points.

    Raises ConfigError for an invalid margin, or if there is no effective length.
    """
    try:
        share = float(margin_points) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ConfigError(
            "must be more than 0 and less than 100 points of recall, e.g. 10",
            key=OPTION,
            value=margin_points,
            code="bad_value",
        )
    kept = [table.get_section_data(TableRecall) for table in tables]
    if not any(of_table.findings for of_table in kept):
        raise ConfigError(
            "no job among these asked for something in long texts",
            key=OPTION,
            value=margin_points,
            code="empty",
        )
    for of_table in kept:
        of_table.findings = divide_error_rate(
            {run_id: replace(own, margin=share) for run_id, own in of_table.findings.items()}
        )


def _group_by_length(answers: Answers) -> dict[int, Answers]:
    """Group answers by text length. Drops cluster labels if every cluster has a single answer."""
    by_length: dict[int, Answers] = {}
    for question, outcome in answers.items():
        if outcome.recall is not None:
            by_length.setdefault(outcome.recall.length, {})[question] = outcome
    return {
        length: {
            question: outcome._replace(cluster=family)
            for (question, outcome), family in zip(own.items(), answer_clusters([*own.values()]), strict=True)
        }
        for length, own in by_length.items()
    }
