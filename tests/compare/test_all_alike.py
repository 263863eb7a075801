"""Verdicts that are all the same: what is said of more questions is what the test of the margin says."""

from __future__ import annotations

from typing import Any

import pytest
from stores import NF4, NONE, Store

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


@pytest.mark.parametrize(("n", "solved", "tells"), [(60, True, "harder"), (60, False, "easier"), (100, True, "harder")])
def test_verdicts_that_are_all_the_same_are_planned_by_the_test_of_the_margin(
    store: Store, show: Any, n: int, solved: bool, tells: str
) -> None:
    """60 of 60 said that more questions would not decide, and 100 of 100 are as good within 5 points."""
    for name, config in (("base", NONE), ("nf4", NF4)):
        store.job("alike", name, config, [solved] * n)
    _, out, _ = show("alike", "--baseline", "quantization=none", "--margin", "5")
    assert "more questions would not decide" not in out
    assert f": {tells} ones would tell more" in out
    assert ("about 72 questions would decide" in out) == (n == 60)
    assert ("as good within 5 points" in out) == (n == 100)
