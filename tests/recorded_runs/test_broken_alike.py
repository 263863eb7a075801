"""Two runs that are broken in the same way show nothing; two that solve everything do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stores import NF4, NONE, Store, marks

from runner_compare.render.margins import UNDECIDED

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
BASELINE = ("--baseline", "quantization=none", "--margin", "2")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "base", "other", "unread", "verdict", "why"),
    [
        ("nobody", 0, 0, 0, "undecided", "neither run solves any question"),
        ("unread", 0, 0, 300, "undecided", "no final answer could be extracted"),
        ("mostly unread", 90, 90, 200, "undecided", "few final answers could be extracted"),
        ("nearly nobody", 3, 3, 0, "undecided", "the baseline's accuracy may be only 0.3 %"),
        ("everybody", 300, 300, 0, "as good", ""),
        ("half", 150, 150, 0, "as good", ""),
        ("candidate", 150, 0, 0, "worse by more", ""),
    ],
)
def test_a_margin_is_shown_only_where_a_loss_would_be_seen(
    store: Store, show: Any, name: str, base: int, other: int, unread: int, verdict: str, why: str
) -> None:
    experiment = f"broken: {name}"
    for job, config, right in (("base", NONE, base), ("nf4", NF4, other)):
        store.job(experiment, job, config, marks(right, 300), metrics={"no_answer": unread})
    code, out, _ = show(experiment, *BASELINE, "--format", "json")
    (row,) = (row for row in json.loads(out)["tables"][0]["rows"] if not row["is_baseline"])
    assert (code, row["comparison"]["verdict"]) == (0, verdict)
    assert why.lower() in " ".join(json.loads(out)["tables"][0]["sentences"]).lower()
    code, _, err = show(experiment, *BASELINE, "--require", "margin=2")
    assert code == (verdict != "as good")
    assert why in err


@pytest.mark.thorough
def test_nothing_solved_is_no_finding_either(store: Store, show: Any) -> None:
    for job, config in (("base", NONE), ("nf4", NF4)):
        store.job("broken: finding", job, config, marks(0, 300))
    code, _, err = show("broken: finding", *BASELINE, "--require", "finding!=worse")
    assert code == 1
    assert err.startswith(
        f"requirement failed: nf4: finding!=worse: {UNDECIDED}, neither run solves any question"
    )


@pytest.mark.thorough
def test_a_pooled_verdict_of_nothing_solved_is_undecided(store: Store, show: Any) -> None:
    for split in ("a", "b"):
        for job, config in (("base", NONE), ("nf4", NF4)):
            name, params = f"{job}-{split}", {**config, "task.split": split}
            store.job("broken: pool", name, params, marks(0, 300), questions=f"{split} question")
    _, out, _ = show("broken: pool", *BASELINE, "--pool", "--format", "json")
    (pooled,) = json.loads(out)["pooled"]
    (row,) = pooled["rows"]
    assert row["comparison"]["verdict"] == "undecided"
