"""Sweeps and memory benchmarks have no verdicts: their repeats are compared."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats as reference
from stores import NF4, NONE, Store

from runner.compare.data import Ratio, Row
from runner.compare.repeats import judge_ratios, repeats_needed

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

BASELINE = "quantization=none"
SWEEP: dict[str, Any] = {"tags": {"task": "sweep"}}
REPEATED = {"task.name": "sweep", "task.repeats": "5"}


def cells(*speeds: float, batch: int = 8) -> list[dict[str, Any]]:
    """A sweep's repeats of one cell."""
    return [
        {"measure": f"{figure}/batch_{batch}_prompt_64", "repeat": number, "value": value}
        for number, speed in enumerate(speeds, start=1)
        for figure, value in (("ttft_s", 1 / speed), ("decode_tok_per_s", speed), ("seconds", 1.0))
    ]


@pytest.fixture(scope="session")
def sweeps(store: Store) -> Store:
    slow, fast = (100.0, 101.0, 102.0, 103.0, 104.0), (120.0, 121.0, 122.0, 123.0, 124.0)
    store.job("sweeps", "base", {**NONE, **REPEATED}, repeats=cells(*slow), **SWEEP)
    store.job("sweeps", "nf4", {**NF4, **REPEATED}, repeats=cells(*fast), **SWEEP)
    return store


def test_a_sweep_compares_its_cells(sweeps: Store, rows: Any, show: Any) -> None:
    row = rows("sweeps", "--baseline", BASELINE)["nf4"]
    found = {it["measure"]: it for it in row["ratios"]}
    assert set(found) == {"decode_tok_per_s/batch_8_prompt_64", "ttft_s/batch_8_prompt_64"}
    it = found["decode_tok_per_s/batch_8_prompt_64"]
    assert it["ratio"] == pytest.approx(122 / 102)
    assert 120 / 104 <= it["ratio_low"] < it["ratio"] < it["ratio_high"] <= 124 / 100
    exact = reference.mannwhitneyu([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], method="exact").pvalue
    assert it["p"] == it["p_holm"] == pytest.approx(exact)
    assert (it["finding"], it["repeats"], it["baseline_repeats"]) == ("larger", 5, 5)
    assert found["ttft_s/batch_8_prompt_64"]["finding"] == "smaller"
    _, out, _ = show("sweeps", "--baseline", BASELINE)
    assert "×1.2 [" in out
    assert "exact rank-sum test" in out
    for style, said in (("markdown", "| ×1.2 ["), ("csv", "ratio/decode_tok_per_s/batch_8_prompt_64")):
        assert said in show("sweeps", "--baseline", BASELINE, "--format", style)[1]


def test_too_few_repeats_are_said_with_how_many_it_takes(store: Store, rows: Any, show: Any) -> None:
    store.job("few", "base", {**NONE, **REPEATED}, repeats=cells(100, 101, 102), **SWEEP)
    store.job("few", "nf4", {**NF4, **REPEATED}, repeats=cells(200, 201, 202), **SWEEP)
    assert {it["finding"] for it in rows("few", "--baseline", BASELINE)["nf4"]["ratios"]} == {"no difference shown"}
    _, out, _ = show("few", "--baseline", BASELINE)
    assert "nf4 vs none: 3 repeats a side cannot show a difference in 1 comparison; task.repeats=4 can" in out


@pytest.mark.parametrize("comparisons", [1, 2, 5, 12])
def test_the_repeats_needed_are_the_fewest_that_can(comparisons: int) -> None:
    def p(repeats: int) -> float:
        return float(reference.mannwhitneyu(range(repeats), range(100, 100 + repeats), method="exact").pvalue)

    needed = repeats_needed(comparisons)
    assert comparisons * p(needed) < 0.05 <= comparisons * p(needed - 1)


def test_a_family_is_all_comparisons_of_one_figure() -> None:
    ratios = [Ratio(f"speed/cell_{number}", 2.0, 1.5, 2.5, 5, 5, 0.008) for number in range(4)]
    ratios += [Ratio("load_s", 2.0, 1.5, 2.5, 5, 5, 0.04)]
    judge_ratios([Row("job", "run", "", {}, {}, ratios=ratios)])
    assert [it.p_holm for it in ratios] == pytest.approx([0.032] * 4 + [0.04])
    assert {str(it.finding) for it in ratios} == {"larger"}


def test_cells_that_only_one_sweep_measured_are_left_out(store: Store, rows: Any) -> None:
    both = cells(100, 101, 102, 103) + cells(200, 201, 202, 203, batch=16)
    store.job("cells", "base", {**NONE, **REPEATED}, repeats=cells(100, 101, 102, 103), **SWEEP)
    store.job("cells", "nf4", {**NF4, **REPEATED}, repeats=both, **SWEEP)
    found = [it["measure"] for it in rows("cells", "--baseline", BASELINE)["nf4"]["ratios"]]
    assert found == ["decode_tok_per_s/batch_8_prompt_64", "ttft_s/batch_8_prompt_64"]


def test_no_repeats_no_comparison(store: Store, rows: Any) -> None:
    store.job("bare", "base", {**NONE, **REPEATED}, repeats=cells(100, 101), **SWEEP)
    store.job("bare", "nf4", {**NF4, **REPEATED}, **SWEEP)
    note = rows("bare", "--baseline", BASELINE)["nf4"]["note"]
    assert note.startswith("no evidence: repeats.jsonl of nf4 is neither in its folder nor in MLflow")
    split: dict[str, Any] = {"tags": {"task": "split"}}
    store.job("parts", "base", {**NONE, "task.name": "split"}, **split)
    store.job("parts", "nf4", {**NF4, "task.name": "split"}, **split)
    assert rows("parts", "--baseline", BASELINE)["nf4"]["note"] == (
        "task=split has neither verdicts nor repeats to compare by"
    )
