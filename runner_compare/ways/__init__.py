"""The ways in which two runs are compared: a module each, found by the one table of their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from runner_base.notes import Note
from runner_compare.model.data import Run
from runner_compare.reader import Reader
from runner_compare.statistics import Compared

# in the order in which two runs are shown to them: the first one that fits compares them
WAYS = ("numbers", "likelihoods", "repeats", "verdicts")

# keys that begin with one of these change prompts
PROMPT_KEYS = ("model.", "task.prompt", "task.template", "task.shots", "task.instruction", "task.system")
# these change how much of a text stands before a token
CONTEXT_KEYS = ("task.window", "task.stride", "task.contexts")


@dataclass(frozen=True)
class Asked:
    """What a comparison is asked for."""

    # that are compared: prompts may differ if one of these changes prompts
    keys: Sequence[str] = ()
    is_unpaired: bool = False  # whether what cannot be paired is compared by its counts

    @property
    def changes_prompts(self) -> bool:
        """Whether a key is compared that changes prompts."""
        return any(key.startswith((*PROMPT_KEYS, *CONTEXT_KEYS)) for key in self.keys)


class Way(Protocol):
    """A module that compares runs by what they have: reads their samples, and makes tests of
    them."""

    def fits(self, run: Run) -> bool:
        """Whether a run has what is compared."""
        ...

    def compare(self, run: Run, base: Run, reader: Reader, asked: Asked, /) -> list[Compared]:
        """Return the comparisons with a baseline; NotPaired with the reason if there is none."""
        ...


@cache
def ways() -> tuple[Way, ...]:
    """Return the ways in their order."""
    return tuple(cast(Way, import_module(f"runner_compare.ways.{name}")) for name in WAYS)


def compare(run: Run, base: Run, reader: Reader, asked: Asked) -> list[Compared]:
    """Compare a run with its baseline in the first way that fits; NotPaired with the reason if they
    cannot be."""
    return next(way for way in ways() if way.fits(run)).compare(run, base, reader, asked)


def noting(compared: Compared, *remarks: Note | None) -> Compared:
    """Return a comparison with further remarks."""
    return replace(compared, remarks=(*compared.remarks, *filter(None, remarks)))
