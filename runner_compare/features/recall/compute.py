"""What the answers of one run to questions about long texts say: recall by length and depth, the
effective length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from runner_base import ConfigError
from runner_compare.model.compared_parts import answers_of_rows, compare_parts, judge_parts, pairs_of_rows
from runner_compare.model.data import Table, TableRow
from runner_compare.model.error_families import ErrorFamily, rows_family
from runner_compare.model.mean_pairs import Pairs
from runner_compare.model.outcomes import Answers, QuestionOutcome, RecallPlace
from runner_compare.reader import Reader
from runner_compare.statistics import ALPHA, Compared, Decision, MeanFlips, share_interval
from runner_compare.statistics.effective_length import EffectiveLength, effective_length, length_tests
from runner_compare.statistics.effects import Test
from runner_compare.ways.verdicts import at_both_ends, by_verdicts

if TYPE_CHECKING:
    from runner_compare.statistics.lost_depths import DepthAnswer, LostDepths

OPTION = "--recall-margin"
RECALL = "recall_accuracy"  # a metric that only jobs have that asked for something in long texts
JOB_MARGIN = "task.margin"  # in points

MARGIN = 0.1  # the loss of recall that is accepted, unless the user names another

Key = tuple[str, float | None, str | None, int]


@dataclass(frozen=True)
class CellRecall:
    """The answers at one depth of one length."""

    answers: int
    right: float  # of several answers to a question, the share of right ones counts

    @property
    def share(self) -> float:
        return self.right / self.answers


@dataclass(frozen=True)
class LengthRecall:
    """The recall at one length, with its 95 % interval."""

    length: int
    answers: int
    questions: int  # that are independent
    share: float
    low: float
    high: float
    cut_off: int
    # its answers beside those at the shortest length; None: it is that one
    against_shortest: Compared | None


@dataclass(frozen=True)
class RecallFindings:
    """What the answers of one run say."""

    outcomes: tuple[QuestionOutcome, ...]
    margin: float = MARGIN
    settings: int = 1  # that share the error of effective lengths, and that of depths
    sharing: int = 0  # of these, settings among which the level of kept lengths is divided; 0: all

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds of questions, in the order of their first answers."""
        return list(dict.fromkeys(asked.kind for asked in self._places))

    @cached_property
    def depths(self) -> list[float]:
        """The depths at which something was asked for."""
        return sorted({asked.depth for asked in self._places if asked.depth is not None})

    @cached_property
    def lengths(self) -> list[LengthRecall]:
        """The recall at each length, from the shortest to the longest."""
        return recall_by_length(self.outcomes)

    @cached_property
    def effective(self) -> EffectiveLength | None:
        """The effective length; None if it would say nothing."""
        return effective_length_of(self.lengths, self.margin, *self.levels)

    @property
    def levels(self) -> tuple[float, float]:
        """The levels of lost and of kept lengths."""
        return ALPHA / self.settings, ALPHA / (self.sharing or self.settings)

    @cached_property
    def by_kind(self) -> dict[str, EffectiveLength | None]:
        """The effective length of each kind of question, whose intervals hold together; empty if
        there is one kind."""
        if len(self.kinds) < 2:
            return {}
        own = {
            kind: [outcome for outcome in self.outcomes if outcome.recall and outcome.recall.kind == kind]
            for kind in self.kinds
        }
        level = ALPHA / self.settings / len(self.kinds)
        return {
            kind: effective_length_of(recall_by_length(outcomes), self.margin, level)
            for kind, outcomes in own.items()
        }

    @cached_property
    def lost_depths(self) -> list[LostDepths]:
        """The range of depths that is most below the rest, for each length."""
        from runner_compare.statistics.lost_depths import lost_depths  # imports numpy

        return lost_depths(self.depth_answers, self.settings)

    @property
    def depth_answers(self) -> list[DepthAnswer]:
        """The answers to what was asked for at one depth."""
        from runner_compare.statistics.lost_depths import DepthAnswer

        return [
            DepthAnswer(asked.length, asked.depth, outcome.mean, asked.kind, outcome.cluster)
            for outcome in self.outcomes
            if (asked := outcome.recall) is not None and asked.depth is not None
        ]

    @cached_property
    def texts(self) -> int:
        """How many haystacks there are."""
        return len({asked.text for asked in self._places if asked.text is not None}) or 1

    @cached_property
    def is_over_texts(self) -> bool:
        """Whether haystacks are the clusters, so that results hold for further haystacks."""
        return any(outcome.is_clustered_by_text for outcome in self.outcomes)

    @property
    def is_too_low(self) -> bool:
        """Whether recall at the shortest length is not shown to be above the margin, so that no
        loss can be seen."""
        return self.lengths[0].low <= self.margin

    @cached_property
    def needed(self) -> int:
        """About how many questions a length show that recall is kept at the first undecided one, if
        nothing is lost."""
        level = self.levels[1]
        at_least = math.floor(math.log(level / 2) / math.log(1 - self.margin)) + 1
        found = self.effective
        undecided = found is not None and self.lengths[found.reached + 1].against_shortest
        if not undecided or not undecided.test.can_plan:
            return at_least
        return max(at_least, undecided.test.needs(self.margin, level) or at_least)

    def cell(self, length: int, depth: float | None) -> CellRecall | None:
        """Return the recall at a depth of a length; None if nothing was asked there."""
        return _cell(
            [
                outcome
                for outcome in self.outcomes
                if outcome.recall and outcome.recall[1:3] == (length, depth)
            ]
        )

    def of_kind(self, kind: str, length: int) -> CellRecall | None:
        """Return the recall of a kind of question at a length."""
        return _cell(
            [outcome for outcome in self.outcomes if outcome.recall and outcome.recall[:2] == (kind, length)]
        )

    @property
    def _places(self) -> list[RecallPlace]:
        return [outcome.recall for outcome in self.outcomes if outcome.recall is not None]


def _cell(outcomes: Sequence[QuestionOutcome]) -> CellRecall | None:
    shares = [outcome.mean for outcome in outcomes]
    return CellRecall(len(shares), math.fsum(shares)) if shares else None


def recall_by_length(outcomes: Sequence[QuestionOutcome]) -> list[LengthRecall]:
    """Return the recall at each length, each beside the shortest one."""
    of_length: dict[int, list[QuestionOutcome]] = {}
    for outcome in outcomes:
        if outcome.recall is not None:
            of_length.setdefault(outcome.recall.length, []).append(outcome)
    lengths = sorted(of_length)
    return [_at_length(length, of_length[length], of_length[lengths[0]]) for length in lengths]


def _at_length(
    length: int, own: Sequence[QuestionOutcome], shortest: Sequence[QuestionOutcome]
) -> LengthRecall:
    shares, families = [outcome.mean for outcome in own], families_of(own)
    low, high = share_interval(shares, families)
    compared = None
    if own is not shortest:
        pairs = pairs_of(own, shortest)
        compared = at_both_ends(_test_of, pairs) if pairs else None
    return LengthRecall(
        length=length,
        answers=len(own),
        questions=len(own) if None in families else len(set(families)),
        share=math.fsum(shares) / len(shares),
        low=low,
        high=high,
        cut_off=sum(outcome.cut_off for outcome in own),
        against_shortest=compared,
    )


def families_of(outcomes: Sequence[QuestionOutcome]) -> list[str | None]:
    """Return the question of each answer where some have several; otherwise each answer is one by
    itself."""
    clusters = [outcome.cluster for outcome in outcomes]
    if None in clusters or len(set(clusters)) == len(clusters):
        return [None] * len(clusters)
    return clusters


def pairs_of(own: Sequence[QuestionOutcome], shortest: Sequence[QuestionOutcome]) -> Pairs:
    """Return the answers at a length beside those to the same questions, at the same depth, at the
    shortest length."""
    keyed, base = _keyed(own), _keyed(shortest)
    return [(outcome, base[key]) for key, outcome in keyed.items() if key in base]


def _keyed(outcomes: Sequence[QuestionOutcome]) -> dict[Key, QuestionOutcome]:
    """Return answers by kind, depth and question; those that agree in all of these by their
    order."""
    keyed: dict[Key, QuestionOutcome] = {}
    counts: dict[tuple[str, float | None, str | None], int] = {}
    for outcome in outcomes:
        assert outcome.recall is not None
        same = outcome.recall.kind, outcome.recall.depth, outcome.cluster
        counts[same] = counts.get(same, 0) + 1
        keyed[*same, counts[same]] = outcome
    return keyed


def _test_of(pairs: Pairs) -> Test:
    """Return the test of the answers at a length against those at the shortest."""
    families = families_of([own for own, _ in pairs])
    samples = max(outcome.samples for pair in pairs for outcome in pair)
    if families[0] is None and samples == 1:
        return by_verdicts(pairs)
    clusters = None if families[0] is None else families
    in_texts = clusters is not None and any(own.is_clustered_by_text for own, _ in pairs)
    return MeanFlips(
        [own.mean - base.mean for own, base in pairs],
        clusters,
        "text" if in_texts else "question",
        samples,
        is_strict=not in_texts,
    )


def effective_length_of(
    lengths: Sequence[LengthRecall], margin: float, alpha: float = ALPHA, kept_alpha: float | None = None
) -> EffectiveLength | None:
    """Return the effective length; None if it would say nothing: of one length, or of recall near
    zero at the first."""
    if (
        len(lengths) < 2
        or lengths[0].low <= margin
        or any(length.against_shortest is None for length in lengths[1:])
    ):
        return None
    compared = [length.against_shortest for length in lengths if length.against_shortest is not None]
    tests = [length_tests(against.test, margin, against.ends) for against in compared]
    return effective_length([length.length for length in lengths], tests, alpha, kept_alpha)


def share_error(findings: Mapping[str, RecallFindings]) -> dict[str, RecallFindings]:
    """Return what several settings say, so that all effective lengths hold together in 95 %.

    Settings that are shown to reach every length pass on their part of the level of kept lengths.
    """
    count = sharing = max(1, len(findings))
    while True:
        left = max(1, count - sum(_reaches_all(own, count, sharing) for own in findings.values()))
        if left == sharing:
            break
        sharing = left
    return {name: replace(own, settings=count, sharing=sharing) for name, own in findings.items()}


def _reaches_all(findings: RecallFindings, settings: int, sharing: int) -> bool:
    """Whether recall is shown to be kept at every length, where settings share the levels."""
    found = effective_length_of(findings.lengths, findings.margin, ALPHA / settings, ALPHA / sharing)
    return found is not None and found.reached == len(found.lengths) - 1


@dataclass
class RecallOfTable:
    """What the rows of a table say, by run id, and the comparisons at each length."""

    findings: dict[str, RecallFindings] = field(default_factory=dict)
    compared: dict[str, dict[int, Decision]] = field(default_factory=dict)  # by run id and length


def recall_rows(table: Table) -> list[TableRow]:
    """Return the rows that asked for something in long texts."""
    findings = table.of(RecallOfTable).findings
    return [row for row in table.rows if row.run.run_id in findings]


def margin_of(table: Table) -> float:
    """Return the margin of the table's effective lengths."""
    return next(iter(table.of(RecallOfTable).findings.values())).margin


def recorded_margin(table: Table) -> float:
    """Return the margin that all jobs of a table have recorded, or the usual one."""
    recorded = {row.run.value(JOB_MARGIN) for row in table.rows}
    if len(recorded) > 1 or None in recorded:
        return MARGIN
    return float(recorded.pop() or 0) / 100


def add_recall(table: Table, reader: Reader) -> None:
    """Read the answers of each row, and compare them with its baseline's at each length."""
    kept = table.of(RecallOfTable)
    if not table.scored or not any(RECALL in row.run.metrics for row in table.rows):
        return
    answers = answers_of_rows(table, reader, lambda outcome: outcome.recall is not None)
    margin = recorded_margin(table)
    kept.findings = share_error(
        {run_id: RecallFindings(tuple(own.values()), margin) for run_id, own in answers.items() if own}
    )
    compared: dict[str, dict[int, Compared]] = {}
    for run, base in pairs_of_rows(table, answers):
        own, other = (_by_length(answers[side.run_id]) for side in (run, base))
        shared = {length: (own[length], other[length]) for length in sorted(own.keys() & other.keys())}
        compared[run.run_id] = compare_parts(run, base, shared, reader)
    kept.compared = judge_parts(compared)


def error_families(table: Table) -> list[ErrorFamily]:
    """Return the groups of statements of which each shares one error."""
    kept = table.of(RecallOfTable)
    findings = [*kept.findings.values()]
    if not findings:
        return []
    counts = {
        "recall at each length": sum(map(len, kept.compared.values())),
        "effective lengths": sum(own.effective is not None for own in findings),
        "effective lengths by kind": sum(len(own.by_kind) for own in findings),
        "depths": sum(len(own.lost_depths) for own in findings),
    }
    return [*rows_family(table), *(ErrorFamily(what, count) for what, count in counts.items() if count)]


def with_margin(tables: list[Table], margin: str) -> None:
    """Decide about effective lengths by another margin, in points; ConfigError if there is none to
    decide about."""
    try:
        share = float(margin) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ConfigError(
            "must be more than 0 and less than 100 points of recall, e.g. 10",
            key=OPTION,
            value=margin,
            code="bad_value",
        )
    kept = [table.of(RecallOfTable) for table in tables]
    if not any(of_table.findings for of_table in kept):
        raise ConfigError(
            "no job among these asked for something in long texts", key=OPTION, value=margin, code="empty"
        )
    for of_table in kept:
        of_table.findings = share_error(
            {run_id: replace(own, margin=share) for run_id, own in of_table.findings.items()}
        )


def _by_length(answers: Answers) -> dict[int, Answers]:
    """Return the answers at each length; where each is one to a question of its own, they are
    independent."""
    by_length: dict[int, Answers] = {}
    for question, outcome in answers.items():
        if outcome.recall is not None:
            by_length.setdefault(outcome.recall.length, {})[question] = outcome
    return {
        length: {
            question: outcome._replace(cluster=family)
            for (question, outcome), family in zip(own.items(), families_of([*own.values()]), strict=True)
        }
        for length, own in by_length.items()
    }
