"""--require: each kind of term, met and not met, with its reason; mistakes are said before anything
is compared."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stores import Store

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

BASELINE = ("--baseline", "quantization=none")


def test_the_command_ends_with_1_and_a_line_for_each_failure(grid: Store, show: Any) -> None:
    code, out, err = show("grid", *BASELINE, "--format", "json", "--require", "margin=5 model_mib<4000")
    assert code == 1
    requirements = json.loads(out)["requirements"]
    assert len(requirements) == 8, "two for each row that is no baseline"
    failed = [it for it in requirements if not it["met"]]
    assert err.splitlines() == [f"requirement failed: {it['reason']}" for it in failed]
    assert {"nf4 task.split=test: worse by more than 5 points"} <= {it["reason"] for it in failed}
    assert show("grid", *BASELINE, "--where", "task.split=train", "--require", "margin=8")[::2] == (0, "")
    code, out, err = show("grid", "--require", "margin=5")
    assert (code, out) == (2, "")
    assert "--require margin=5: needs a baseline" in err
    assert show("grid", "--require", "model_mib<4000")[0] == 0
    assert show("grid", *BASELINE, "--require", "margin=5", "--margin", "4")[0] == 2
    code, _, err = show("grid", "--flips", "none-test", "nf4-test", "--require", "model_mib<4000")
    assert (code, "leave out --require" in err) == (2, True)
