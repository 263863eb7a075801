"""What can be hidden and asked: the name of each kind, the function that draws its cases, and what
of it is known."""

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
    first: float = (
        0.0  # about where in a text the first hidden thing stands: all cases begin alike up to there
    )


KINDS = {
    "single": Kind("needles:single", has_depth=True, first=1),
    "several_asked_one": Kind("needles:several_asked_one", has_depth=True, shares_text=True),
    "several_asked_all": Kind("needles:several_asked_all", first=0.125),
    "multikey": Kind("needles:multikey", has_depth=True, first=0.25),
    "chain": Kind("chains:chain", first=0.06),
    "count": Kind("counting:count", first=0.1),
    "problem": Kind("problems:story_problem", has_depth=True, first=1),
    # RULER's, by the names that lm-evaluation-harness has for them, but for its ruler_cwe and
    # ruler_fwe
    "common_words": Kind("ruler_words:common_words"),
    "frequent_words": Kind("ruler_words:frequent_words"),
    "niah_single_1": Kind("ruler_niah:niah", first=0.5),
    "niah_multikey_1": Kind("ruler_niah:niah", first=0.2),
    "niah_multikey_2": Kind("ruler_niah:niah"),
    "niah_multikey_3": Kind("ruler_niah:niah"),
    "niah_multivalue": Kind("ruler_niah:niah", first=0.2),
    "niah_multiquery": Kind("ruler_niah:niah", first=0.2),
    "ruler_vt": Kind("ruler_tracking:tracking"),
}


def has_depth(kind: str) -> bool:
    """Whether each case of a kind has one of task.depths."""
    return KINDS[kind].has_depth


def is_of_ruler(kind: str) -> bool:
    """Whether a kind is one of RULER's."""
    return KINDS[kind].drawn_by.startswith("ruler_")


def shares_text(kind: str) -> bool:
    """Whether the cases of all depths ask about one and the same text."""
    return KINDS[kind].shares_text


def shared_part(kind: str, depth: float) -> float:
    """Return the share of a text with which all cases of a kind begin, the asked needle of which is
    at a depth."""
    return min(KINDS[kind].first, depth)


def drawn_by(kind: str) -> Callable[[Recipe], Iterator[Case]]:
    """Return the function that draws the cases of a kind."""
    module, _, name = KINDS[kind].drawn_by.partition(":")
    function: Callable[[Recipe], Iterator[Case]] = getattr(import_module(f"{__name__}.{module}"), name)
    return function
