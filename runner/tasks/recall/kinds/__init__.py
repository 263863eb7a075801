"""What can be hidden and asked: the name of each kind, the function that draws its cases, and what of it is known."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.tasks.recall.cases import Case, Recipe


class Kind(NamedTuple):
    """A kind: which function of which module of this folder draws its cases."""

    drawn_by: str
    has_depth: bool = False  # each case has one of task.depths
    shares_text: bool = False  # the cases of all depths ask about one and the same text


KINDS = {
    "single": Kind("needles:single", has_depth=True),
    "several_asked_one": Kind("needles:several_asked_one", has_depth=True, shares_text=True),
    "several_asked_all": Kind("needles:several_asked_all"),
    "multikey": Kind("needles:multikey", has_depth=True),
    "chain": Kind("chains:chain"),
    "count": Kind("counting:count"),
    "problem": Kind("problems:story_problem", has_depth=True),
    # RULER's, by the names that lm-evaluation-harness has for them, but for its ruler_cwe and ruler_fwe
    "common_words": Kind("ruler_words:common_words"),
    "frequent_words": Kind("ruler_words:frequent_words"),
    "niah_single_1": Kind("ruler_niah:niah"),
    "niah_multikey_1": Kind("ruler_niah:niah"),
    "niah_multikey_2": Kind("ruler_niah:niah"),
    "niah_multikey_3": Kind("ruler_niah:niah"),
    "niah_multivalue": Kind("ruler_niah:niah"),
    "niah_multiquery": Kind("ruler_niah:niah"),
    "ruler_vt": Kind("ruler_tracking:tracking"),
}


def has_depth(kind: str) -> bool:
    """Whether each case of a kind has one of task.depths."""
    return KINDS[kind].has_depth


def shares_text(kind: str) -> bool:
    """Whether the cases of all depths ask about one and the same text."""
    return KINDS[kind].shares_text


def drawn_by(kind: str) -> Callable[[Recipe], Iterator[Case]]:
    """Return the function that draws the cases of a kind."""
    module, _, name = KINDS[kind].drawn_by.partition(":")
    function: Callable[[Recipe], Iterator[Case]] = getattr(import_module(f"{__name__}.{module}"), name)
    return function
