"""Registry of recall kinds: each kind's properties, and the function that draws its cases."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.tasks.recall.cases import Case, CaseSettings


class Kind(NamedTuple):
    """A kind of recall question: its properties, and the location of the function that draws its cases."""

    drawn_by: str
    has_depth: bool = False  # each case has one of task.depths
    shares_text: bool = False  # the cases of all depths ask about one and the same text
    first: float = (
        0.0  # about where in a text the first hidden thing stands: all cases begin alike up to there
    )


KINDS = {
    "single": Kind("needles:draw_single_cases", has_depth=True, first=1),
    "several_asked_one": Kind("needles:draw_shared_text_cases", has_depth=True, shares_text=True),
    "several_asked_all": Kind("needles:draw_ask_all_cases", first=0.125),
    "multikey": Kind("needles:draw_multikey_cases", has_depth=True, first=0.25),
    "chain": Kind("chains:draw_chain_cases", first=0.06),
    "count": Kind("counting:draw_counting_cases", first=0.1),
    "problem": Kind("problems:draw_problem_cases", has_depth=True, first=1),
    # RULER's, by the names that lm-evaluation-harness has for them, but for its ruler_cwe and
    # ruler_fwe
    "common_words": Kind("ruler_words:draw_common_word_cases"),
    "frequent_words": Kind("ruler_words:draw_frequent_word_cases"),
    "niah_single_1": Kind("ruler_niah:draw_niah_cases", first=0.5),
    "niah_multikey_1": Kind("ruler_niah:draw_niah_cases", first=0.2),
    "niah_multikey_2": Kind("ruler_niah:draw_niah_cases"),
    "niah_multikey_3": Kind("ruler_niah:draw_niah_cases"),
    "niah_multivalue": Kind("ruler_niah:draw_niah_cases", first=0.2),
    "niah_multiquery": Kind("ruler_niah:draw_niah_cases", first=0.2),
    "ruler_vt": Kind("ruler_tracking:draw_tracking_cases"),
}


def kind_has_depth(kind: str) -> bool:
    """Return whether the cases of this recall kind have a needle at one of task.depths."""
    return KINDS[kind].has_depth


def is_ruler_kind(kind: str) -> bool:
    return KINDS[kind].drawn_by.startswith("ruler_")


def kind_shares_text(kind: str) -> bool:
    return KINDS[kind].shares_text


def get_shared_prefix_fraction(kind: str, depth: float) -> float:
    """Return the fraction of the text that all cases of this recall kind share as a prefix."""
    return min(KINDS[kind].first, depth)


def load_case_generator(kind: str) -> Callable[[CaseSettings], Iterator[Case]]:
    """Return the function that draws the cases of this recall kind."""
    module, _, name = KINDS[kind].drawn_by.partition(":")
    function: Callable[[CaseSettings], Iterator[Case]] = getattr(import_module(f"{__name__}.{module}"), name)
    return function
