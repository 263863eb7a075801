"""What may be compared, what is refused by name, and that the numbers are the textbook's."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats as reference
from stores import INT8, NF4, NONE, Store, marks

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

BASELINE = "quantization=none"


def test_other_prompts_are_refused_and_counted(store: Store, rows: Any) -> None:
    store.job("prompts", "base", NONE, marks(50, 100))
    store.job("prompts", "nf4", NF4, marks(50, 100), prompts="reworded")
    row = rows("prompts", "--baseline", BASELINE)["nf4"]
    assert row["comparison"] is None
    assert row["note"] == "other prompts: 100 of 100 questions were put in other words than in the baseline"


def test_prompts_may_differ_where_they_are_what_is_compared(store: Store, rows: Any) -> None:
    chat, text = {"task.prompt": "chat"}, {"task.prompt": "text"}
    store.job("wording", "chat", chat, marks(50, 100))
    store.job("wording", "text", text, marks(60, 100), prompts="reworded")
    row = rows("wording", "--baseline", "task.prompt=chat")["text"]
    assert (row["comparison"]["wins"], row["comparison"]["method"]) == (10, "mcnemar")
    assert row["comparison"]["remark"] == "other prompts for 100 of 100 questions"


def test_unpaired_takes_fishers_test(store: Store, rows: Any, show: Any) -> None:
    store.job("unpaired", "base", NONE, marks(90, 100))
    store.job("unpaired", "fewer", NF4, marks(50, 80))
    store.job("unpaired", "same", INT8, marks(70, 100))
    assert rows("unpaired", "--baseline", BASELINE)["fewer"]["comparison"] is None
    found = rows("unpaired", "--baseline", BASELINE, "--unpaired")
    it = found["fewer"]["comparison"]
    assert it["method"] == "fisher"
    assert it["p"] == pytest.approx(reference.fisher_exact([[50, 30], [90, 10]])[1])
    assert it["difference"] == pytest.approx(50 / 80 - 90 / 100)
    assert it["difference_low"] < it["difference"] < it["difference_high"] < 0
    assert (it["wins"], it["losses"], it["ties"]) == (None, None, None)
    assert it["finding"] == "worse"
    assert it["remark"] == "unpaired, other questions: 80 here, 100 in the baseline, 80 are the same"
    assert found["same"]["comparison"]["method"] == "mcnemar"  # what can be paired, is
    _, out, _ = show("unpaired", "--baseline", BASELINE, "--unpaired")
    assert "nf4 vs none (n=80 and 100, Fisher's exact test): worse" in out
    assert "rows without wins are unpaired (Newcombe's interval, Fisher's exact test)" in out


def test_a_job_as_baseline_is_compared_with_all_others(grid: Store, rows: Any) -> None:
    found = rows("grid", "--baseline", "job_id=none-test")
    assert next(iter(found)) == "none-test"  # it stands above the others
    counts = {name: [row["comparison"][key] for key in ("wins", "losses")] for name, row in list(found.items())[1:]}
    assert (counts["nf4-test"], counts["nf4-train"]) == ([0, 30], [9, 0])  # they differ in the split, too
    assert all(row["comparison"]["baseline_job_id"] == "none-test" for row in found.values() if not row["is_baseline"])


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tags": {"task_version": "2"}}, "scored differently: the baseline with version 1 strict, this run with"),
        ({"prompts": "other"}, "other prompts: 100 of 100"),
        ({"gold": "43"}, "the gold answers differ"),
    ],
    ids=["version", "prompts", "gold"],
)
def test_each_refusal_has_its_way_out(
    store: Store, rows: Any, changed: dict[str, Any], why: str, request: pytest.FixtureRequest
) -> None:
    experiment = f"refused-{request.node.callspec.id}"
    store.job(experiment, "base", NONE, marks(50, 100))
    store.job(experiment, "nf4", NF4, marks(40, 100), **changed)
    assert why in rows(experiment, "--baseline", BASELINE)["nf4"]["note"]
    remark = rows(experiment, "--baseline", BASELINE, "--unpaired")["nf4"]["comparison"]["remark"]
    assert remark.startswith("unpaired, ")
    assert why in remark


def test_the_numbers_are_scipys(grid: Store, rows: Any) -> None:
    found = rows("grid", "--baseline", BASELINE)
    ps = {}
    for name, row in found.items():
        it = row["comparison"]
        if it is not None:
            n = it["wins"] + it["losses"]
            ps[name] = reference.binomtest(it["wins"], n).pvalue if n else 1.0
            assert it["p"] == pytest.approx(ps[name])
            assert it["wins"] + it["losses"] + it["ties"] == row["metrics"]["n"]
    # Holm's step-down by its definition
    ordered = sorted(ps, key=lambda name: ps[name])
    for rank, name in enumerate(ordered):
        expected = max(min(1.0, (len(ps) - at) * ps[other]) for at, other in enumerate(ordered[: rank + 1]))
        assert found[name]["comparison"]["p_holm"] == pytest.approx(expected)
