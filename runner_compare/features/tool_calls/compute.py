"""What the answers of one run to questions with functions say: at which step calls fail, by
category and length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from runner_base.tool_outcomes import STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.model.outcomes import QuestionOutcome, ToolPlace
from runner_compare.statistics import share_interval

Cell = tuple[str, int]  # category, and the length up to which contexts were filled


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
