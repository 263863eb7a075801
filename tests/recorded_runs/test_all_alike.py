"""Verdicts that are all the same: what is said of more questions is what the test of the margin
says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from question_families import with_samples
from stores import NF4, NONE, Store

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("n", "solved", "tells"), [(60, True, "harder"), (60, False, "easier"), (100, True, "harder")]
)
def test_verdicts_that_are_all_the_same_are_planned_by_the_test_of_the_margin(
    store: Store, show: Any, n: int, solved: bool, tells: str
) -> None:
    """60 of 60 said that more questions would not decide, and 100 of 100 have no loss above 5
    points."""
    for name, config in (("base", NONE), ("nf4", NF4)):
        store.job("alike", name, config, [solved] * n)
    _, out, _ = show("alike", "--baseline", "quantization=none", "--margin", "5")
    assert ("neither run solves any question; use easier questions" in out) != solved
    assert f"use {tells} questions" in out
    planned = re.search(r"about 72 \([\d,]+ to [\d,]+\) questions in all would decide", out)
    assert bool(planned) == (n == 60 and solved)
    assert ("no loss above 5 points" in out) == (n == 100)


@pytest.mark.thorough
@pytest.mark.parametrize(("right", "tells"), [(6, ""), (8, "harder"), (0, "easier"), (2, "")])
def test_of_several_answers_the_mean_says_whether_all_are_alike(
    store: Store, show: Any, right: int, tells: str
) -> None:
    """Six right answers of eight elect the right one: that both solve every question was said
    of 75 %."""
    for name, config in (("base", NONE), ("nf4", NF4)):
        with_samples(store, f"alike {right} of 8", name, config, [right] * 60)
    _, out, _ = show(f"alike {right} of 8", "--baseline", "quantization=none", "--margin", "5")
    assert bool(re.search(r"use (harder|easier) questions", out)) == bool(tells)
    assert f"use {tells}" in out or not tells


@pytest.mark.thorough
def test_a_repeat_of_several_answers_is_counted_by_their_shares(store: Store, show: Any) -> None:
    """Every vote is the same in both, and 20 of 60 questions have another share of right
    answers."""
    for repeat, right in (("0", [8] * 60), ("1", [8] * 40 + [6] * 20)):
        with_samples(
            store, "shares of answers", f"base-{repeat}", {**NONE, "task.repeat_index": repeat}, right
        )
    with_samples(store, "shares of answers", "nf4", {**NF4, "task.repeat_index": "0"}, [8] * 60)
    _, out, _ = show("shares of answers", "--baseline", "quantization=none")
    assert "The accuracy of 20 of 60 questions changed" in " ".join(out.split())
    assert "he verdict of " not in out
