"""Compares two runs, with one module per kind of result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from runner_base.notes import Note
from runner_compare.model.data import Run
from runner_compare.reader import Reader
from runner_compare.statistics import RunComparison

# in the order in which two runs are shown to them: the first one that fits compares them
WAYS = ("numbers", "likelihoods", "repeats", "verdicts")

# keys that begin with one of these change prompts
PROMPT_KEYS = ("model.", "task.prompt", "task.template", "task.shots", "task.instruction", "task.system")
# these change how much of a text stands before a token
CONTEXT_KEYS = ("task.window", "task.stride", "task.context_lengths")


@dataclass(frozen=True)
class PairingOptions:
    """Options that control how answers of two runs are paired."""

    # that are compared: prompts may differ if one of these changes prompts
    keys: Sequence[str] = ()
    is_unpaired: bool = False  # whether what cannot be paired is compared by its counts

    @property
    def may_change_prompts(self) -> bool:
        return any(key.startswith((*PROMPT_KEYS, *CONTEXT_KEYS)) for key in self.keys)


class ComparisonMethod(Protocol):
    """Interface of a module that compares two runs by one kind of result."""

    def can_compare_run(self, run: Run) -> bool:
        """Return whether a run has the kind of result that this method compares."""
        ...

    def compare_with_baseline(
        self, run: Run, base: Run, reader: Reader, pairing: PairingOptions, /
    ) -> list[RunComparison]:
        """Return the comparisons of a run with its baseline.

        Raises NotPaired, with the reason, if the runs cannot be compared.
        """
        ...


@cache
def list_comparison_methods() -> tuple[ComparisonMethod, ...]:
    """Return all comparison methods in the order in which they are tried."""
    return tuple(cast(ComparisonMethod, import_module(f"runner_compare.ways.{name}")) for name in WAYS)


def compare_runs(run: Run, base: Run, reader: Reader, pairing: PairingOptions) -> list[RunComparison]:
    """Compare a run with its baseline by the first method that can compare the run.

    Raises NotPaired with the reason if they cannot be compared.
    """
    return next(way for way in list_comparison_methods() if way.can_compare_run(run)).compare_with_baseline(
        run, base, reader, pairing
    )


def with_notes(compared: RunComparison, *notes: Note | None) -> RunComparison:
    return replace(compared, remarks=(*compared.remarks, *filter(None, notes)))
