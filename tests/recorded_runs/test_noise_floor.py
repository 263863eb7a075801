"""The baseline again: a row of its own, outside Holm's correction, and the measure of other rows'
findings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stores import NF4, NONE, Store, marks

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

BASELINE = ("--baseline", "quantization=none")
N = 200


@pytest.fixture(scope="module")
def repeated(store: Store) -> Store:
    """The baseline's repeat loses 10 questions of 200; nf4 loses 8, and fp4 40."""
    for name, config, flips in (
        ("none", {**NONE, "task.repeat": "0"}, 0),  # recorded before the key was renamed
        ("none-again", {**NONE, "task.repeat_index": "1"}, 10),
        ("nf4", {**NF4, "task.repeat_index": "0"}, 8),
        ("fp4", {"quantization.name": "fp4", "task.repeat_index": "0"}, 40),
    ):
        store.job("repeat", name, config, marks(180, N, flips))
    return store


def rows_of(show: Any, experiment: str, *arguments: str) -> dict[str, dict[str, Any]]:
    code, out, err = show(experiment, "--format", "json", *BASELINE, *arguments)
    assert (code, err) == (0, "")
    return {row["job_id"]: row for row in json.loads(out)["tables"][0]["rows"]}


@pytest.mark.thorough
def test_the_baseline_again_is_a_row_that_holm_does_not_count(repeated: Store, show: Any) -> None:
    rows = rows_of(show, "repeat")
    assert list(rows)[:2] == ["none", "none-again"], "it comes right below its baseline"
    again, nf4 = rows["none-again"]["comparison"], rows["nf4"]["comparison"]
    assert (again["baseline_job_id"], again["difference"]) == ("none", pytest.approx(-0.05))
    assert again["p_holm"] == again["p"]
    assert nf4["p_holm"] == pytest.approx(nf4["p"]), "the largest p of two"
    assert rows["fp4"]["comparison"]["p_holm"] == pytest.approx(2 * rows["fp4"]["comparison"]["p"])


def test_a_finding_that_is_no_larger_than_the_noise_says_so(repeated: Store, show: Any) -> None:
    code, out, _ = show("repeat", *BASELINE)
    assert code == 0
    nf4, fp4, again = (
        next(line for line in out.splitlines() if line.startswith(f"• {name}"))
        for name in ("nf4 vs none", "fp4 vs none", "quantization=none again (task.repeat_index=1)")
    )
    assert ": worse (" in nf4
    assert nf4.endswith(" The difference does not exceed the run-to-run noise of the baseline (5.0 points).")
    assert ": worse (" in fp4
    assert fp4.endswith(" Two runs of the baseline also differ significantly (5.0 points).")
    assert again.endswith("The verdict of 10 of 200 questions changed.")
    assert "correction for the 2 comparisons of this table" in out


def test_noise_that_may_be_chance_is_not_said_beside_a_larger_finding(store: Store, show: Any) -> None:
    store.job("quiet", "none", {**NONE, "task.repeat_index": "0"}, marks(180, N))
    store.job("quiet", "none-again", {**NONE, "task.repeat_index": "1"}, marks(180, N, 2))
    store.job("quiet", "fp4", {"quantization.name": "fp4", "task.repeat_index": "0"}, marks(180, N, 40))
    assert rows_of(show, "quiet")["fp4"]["comparison"]["remark"] is None


def test_a_repeat_can_be_named_as_the_baseline(repeated: Store, show: Any) -> None:
    _, out, _ = show("repeat", "--format", "json", "--baseline", "quantization=none,task.repeat_index=1")
    rows = {row["job_id"]: row for row in json.loads(out)["tables"][0]["rows"]}
    assert rows["none-again"]["is_baseline"]
    assert rows["nf4"]["comparison"]["baseline_job_id"] == "none-again"


def test_an_earlier_run_of_the_baseline_is_its_noise_too(store: Store, show: Any) -> None:
    store.job("earlier", "none", NONE, marks(180, N, 12))
    store.job("earlier", "none", NONE, marks(180, N))  # the same job again, as with rerun=all
    store.job("earlier", "nf4", NF4, marks(180, N, 8))
    note = rows_of(show, "earlier")["nf4"]["comparison"]["remark"]
    assert note.endswith("the difference does not exceed the run-to-run noise of the baseline (6.0 points)")


def test_answers_that_change_when_asked_alone_are_said(store: Store, show: Any) -> None:
    counts = {"answers_changed": 3.0, "asked_again": 20.0}
    store.job("alone", "none", NONE, marks(180, N), metrics=counts)
    store.job("alone", "nf4", NF4, marks(180, N, 8))
    note = rows_of(show, "alone")["nf4"]["comparison"]["remark"]
    assert note.startswith("in none, 3 of 20 answers change ")
