"""What the answers of one run to questions with functions say: at which step calls fail, by
category and length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from runner_base import Result, Sample
from runner_base.tool_outcomes import RIGHT, STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.model.outcomes import QuestionOutcome, ToolPlace
from runner_compare.statistics import share_interval

Cell = tuple[str, int]  # category, and the length up to which contexts were filled
BY_OUTCOME = "calls of functions: answers by what came of them"
WORDS = {outcome: outcome.value.replace("_", " ") for outcome in ToolOutcome}


@dataclass(frozen=True)
class CellCalls:
    """The answers of one category at one length."""

    category: str
    length: int
    outcomes: tuple[QuestionOutcome, ...]

    @property
    def share(self) -> float:
        """The share of right answers."""
        return fmean(outcome.mean for outcome in self.outcomes)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        families = [outcome.cluster for outcome in self.outcomes]
        if None in families or len(set(families)) == len(families):
            families = [None] * len(families)
        return share_interval([outcome.mean for outcome in self.outcomes], families)

    @property
    def counts(self) -> Counter[ToolOutcome]:
        """How many answers came to what."""
        return Counter(outcome.tools.outcome for outcome in self.outcomes if outcome.tools is not None)

    @property
    def needs_calls(self) -> bool:
        """Whether its questions need a call."""
        return not self.counts.keys() & {ToolOutcome.nothing_called, ToolOutcome.called_without_need}


@dataclass(frozen=True)
class ToolFindings:
    """What the answers of one run say."""

    outcomes: tuple[QuestionOutcome, ...]

    @cached_property
    def cells(self) -> list[CellCalls]:
        """The answers of each category and length, in the order of the first ones."""
        own: dict[Cell, list[QuestionOutcome]] = {}
        for place, outcome in self._placed():
            own.setdefault((place.category, place.length), []).append(outcome)
        return [CellCalls(*cell, tuple(outcomes)) for cell, outcomes in own.items()]

    @cached_property
    def lengths(self) -> list[int]:
        """The lengths up to which contexts were filled; 0: they were not."""
        return sorted({cell.length for cell in self.cells})

    @cached_property
    def steps(self) -> dict[str, float]:
        """The share of answers that have taken each step, of the questions to which it belongs."""
        with_need = [cell for cell in self.cells if cell.needs_calls]
        without = [cell for cell in self.cells if not cell.needs_calls]
        shares = {step: _share(with_need, outcomes) for step, outcomes in STEPS.items() if with_need}
        return shares | ({WITHOUT_NEED: _share(without, {ToolOutcome.nothing_called})} if without else {})

    def _placed(self) -> Iterator[tuple[ToolPlace, QuestionOutcome]]:
        yield from ((outcome.tools, outcome) for outcome in self.outcomes if outcome.tools is not None)


def _share(cells: Sequence[CellCalls], outcomes: frozenset[ToolOutcome] | set[ToolOutcome]) -> float:
    """Return the share of answers with one of some outcomes."""
    counted = sum((cell.counts for cell in cells), Counter[ToolOutcome]())
    return sum(counted[outcome] for outcome in outcomes) / counted.total()


def tool_card(result: Result, samples: Sequence[Sample]) -> None:
    """Add to a job's result the shares of each step, those of each category and length, and the
    table of outcomes."""
    findings = ToolFindings(tuple(QuestionOutcome.of(sample) for sample in samples))
    metrics = {"tool_accuracy": fmean(outcome.mean for outcome in findings.outcomes)}
    for name, group in _groups(findings):
        metrics[f"tool_accuracy/{name}"] = fmean(outcome.mean for cell in group for outcome in cell.outcomes)
    metrics |= {f"{step}_share": share for step, share in findings.steps.items()}
    result.metrics |= metrics
    result.tables[BY_OUTCOME] = [outcome_row(cell, len(findings.lengths) > 1) for cell in findings.cells]


def _groups(findings: ToolFindings) -> Iterator[tuple[str, list[CellCalls]]]:
    """Yield the cells of each category and, where there are several, of each length, with the end
    of their metric."""
    for category in dict.fromkeys(cell.category for cell in findings.cells):
        yield category, [cell for cell in findings.cells if cell.category == category]
    for length in findings.lengths if len(findings.lengths) > 1 else []:
        yield f"length_{length}", [cell for cell in findings.cells if cell.length == length]


def outcome_row(cell: CellCalls, has_lengths: bool) -> dict[str, Any]:
    """Return how many answers of a category and a length came to what; only what was seen."""
    filled: dict[str, Any] = {"tokens": cell.length} if has_lengths else {}
    right = {"right": f"{100 * cell.share:.1f} %", "answers": len(cell.outcomes)}
    failed = [
        f"{cell.counts[outcome]} {WORDS[outcome]}"
        for outcome in ToolOutcome
        if outcome in _failures(cell.counts)
    ]
    return {"category": cell.category} | filled | right | {"failed": ", ".join(failed) or "none"}


def _failures(counts: Counter[ToolOutcome]) -> list[ToolOutcome]:
    return [outcome for outcome in counts if outcome not in RIGHT]


def cell_record(cell: CellCalls) -> dict[str, Any]:
    """Return the answers of a category and a length as plain data."""
    low, high = cell.interval
    return {
        "category": cell.category,
        "tokens": cell.length,
        "answers": len(cell.outcomes),
        "right": cell.share,
        "right_low": low,
        "right_high": high,
        "outcomes": {outcome.value: cell.counts[outcome] for outcome in ToolOutcome if cell.counts[outcome]},
    }
