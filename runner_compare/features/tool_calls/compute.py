"""Computes tool-calling results of one run: the step at which calls fail, by category and context length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from runner_base.tool_outcomes import STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.model.outcomes import QuestionOutcome, ToolCase
from runner_compare.statistics import accuracy_interval

Cell = tuple[str, int]  # category, and the length up to which contexts were filled


@dataclass(frozen=True)
class CellCalls:
    """Answers to tool-calling questions of one category and context length."""

    category: str
    length: int
    outcomes: tuple[QuestionOutcome, ...]

    @property
    def accuracy(self) -> float:
        return fmean(outcome.accuracy for outcome in self.outcomes)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        families = [outcome.cluster for outcome in self.outcomes]
        if None in families or len(set(families)) == len(families):
            families = [None] * len(families)
        return accuracy_interval([outcome.accuracy for outcome in self.outcomes], families)

    @property
    def outcome_counts(self) -> Counter[ToolOutcome]:
        return Counter(outcome.tools.outcome for outcome in self.outcomes if outcome.tools is not None)

    @property
    def needs_calls(self) -> bool:
        """Whether the questions require a tool call."""
        return not self.outcome_counts.keys() & {ToolOutcome.nothing_called, ToolOutcome.called_without_need}


@dataclass(frozen=True)
class ToolFindings:
    """Tool-calling results of one run, by category and context length."""

    outcomes: tuple[QuestionOutcome, ...]

    @cached_property
    def cells(self) -> list[CellCalls]:
        """Answers per category and context length, in the order of first occurrence."""
        own: dict[Cell, list[QuestionOutcome]] = {}
        for place, outcome in self._iter_tool_outcomes():
            own.setdefault((place.category, place.length), []).append(outcome)
        return [CellCalls(*cell, tuple(outcomes)) for cell, outcomes in own.items()]

    @cached_property
    def context_lengths(self) -> list[int]:
        """Context lengths in tokens. 0 means that the context was not filled."""
        return sorted({cell.length for cell in self.cells})

    @cached_property
    def tool_call_step_pass_rates(self) -> dict[str, float]:
        """Fraction of answers that pass each step of the check of a tool call.

        Only questions to which a step applies count.
        """
        with_need = [cell for cell in self.cells if cell.needs_calls]
        without = [cell for cell in self.cells if not cell.needs_calls]
        shares = {
            step: _compute_outcome_fraction(with_need, outcomes)
            for step, outcomes in STEPS.items()
            if with_need
        }
        return shares | (
            {WITHOUT_NEED: _compute_outcome_fraction(without, {ToolOutcome.nothing_called})}
            if without
            else {}
        )

    def _iter_tool_outcomes(self) -> Iterator[tuple[ToolCase, QuestionOutcome]]:
        yield from ((outcome.tools, outcome) for outcome in self.outcomes if outcome.tools is not None)


def _compute_outcome_fraction(
    cells: Sequence[CellCalls], outcomes: frozenset[ToolOutcome] | set[ToolOutcome]
) -> float:
    counted = sum((cell.outcome_counts for cell in cells), Counter[ToolOutcome]())
    return sum(counted[outcome] for outcome in outcomes) / counted.total()
