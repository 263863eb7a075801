"""Runs that differ from every baseline in a key: the key is named, and can be ignored."""

from __future__ import annotations

from typing import Any

import pytest
from stores import NF4, NONE, Store, marks

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
BASELINE = "quantization=none"


@pytest.mark.thorough
def test_a_key_that_differs_is_named_with_the_option_that_ignores_it(
    store: Store, rows: Any, show: Any
) -> None:
    store.job("revisions", "base", {**NONE, "model.revision": "abc"}, marks(50, 100))
    store.job("revisions", "nf4", {**NF4, "model.revision": "def"}, marks(60, 100))
    row = rows("revisions", "--baseline", BASELINE)["nf4"]
    assert row["note"] == (
        "no run can be the baseline. The most similar run differs in model.revision (abc, here def). "
        "To compare anyway, add --ignore model.revision"
    )
    row = rows("revisions", "--baseline", BASELINE, "--ignore", "model.revision")["nf4"]
    assert (row["comparison"]["wins"], row["comparison"]["losses"]) == (10, 0)
    assert row["comparison"]["remark"] == "ignored: model.revision (abc, here def)"
    code, _, err = show("revisions", "--ignore", "model.revision")
    assert (code, "needs a baseline" in err) == (2, True)
    code, _, err = show("revisions", "--baseline", BASELINE, "--ignore", "model.revison")
    assert (code, "Did you mean model.revision?" in err) == (2, True)
