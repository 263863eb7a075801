"""Answers that were cut off: what they leave open is shown, and no verdict is said that they could
change."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from json_schema import SCHEMA, faults
from question_families import in_families
from stores import INT8, NF4, NONE, Store, marks

from runner_compare.render.margins import UNDECIDED
from runner_compare.statistics.stats import compute_clopper_pearson_interval, compute_exact_mcnemar_p_value

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
BASELINE = ("--baseline", "quantization=none")
N = 200
OPEN = "no difference shown"


@pytest.fixture(scope="module")
def cut(store: Store) -> Store:
    """A baseline that solves 180 of 200; nf4 loses 30 of them by being cut off, int8 by wrong
    answers but for five."""
    store.job("cut off", "none", NONE, marks(180, N))
    store.job("cut off", "nf4", NF4, marks(180, N, 30), cut_off=range(30))
    store.job("cut off", "int8", INT8, marks(180, N, 30), cut_off=range(5))
    return store


def test_a_finding_that_cut_off_answers_decide_is_not_said(cut: Store, show: Any) -> None:
    code, out, _ = show("cut off", *BASELINE)
    said = " ".join(out.split())
    assert code == 0
    assert "75.0 … 90.0 % [68.4, 93.8]" in said
    assert f"nf4 vs none (n=200): {UNDECIDED} (Δ −15.0 points" in said
    assert f"Worse if cut-off answers (30 of 200 answers here) count as wrong, but {UNDECIDED} if " in said
    assert "Δ is −15.0 … 0.0 [−21.6, +2.2] points. Raise generation.max_new_tokens" in said
    assert "does not depend on the cut-off answers (5 of 200 answers here): Δ −15.0 … −12.5" in said
    answer = (
        f"int8 is worse than the baseline. nf4 is {UNDECIDED}: the result depends on whether cut-off answers "
        "are correct, so raise generation.max_new_tokens."
    )
    assert answer in said


@pytest.mark.thorough
def test_both_ends_are_recorded_and_the_worse_p_decides(cut: Store, rows: Any, show: Any) -> None:
    found = rows("cut off", *BASELINE, "--margin", "5")
    nf4, int8 = (found[name]["comparison"] for name in ("nf4", "int8"))
    assert (nf4["finding"], nf4["verdict"], nf4["p_holm"]) == (OPEN, "undecided", 1.0)
    ends = nf4["without_limit"]
    assert (ends["cut_off"], ends["baseline_cut_off"], ends["decides"]) == (30, 0, True)
    assert (ends["finding_as_counted"], ends["verdict_as_counted"]) == ("worse", "worse by more")
    assert (ends["at_worst"]["finding"], ends["at_best"]["finding"]) == ("worse", OPEN)
    assert ends["at_best"]["verdict"] == "as good"
    assert (int8["finding"], int8["verdict"]) == ("worse", "worse by more")
    assert int8["p_holm"] > 2 * compute_exact_mcnemar_p_value(0, 30), "by the end with the five right"
    assert int8["without_limit"]["at_best"]["p"] == compute_exact_mcnemar_p_value(0, 25)
    metrics = found["nf4"]["metrics"]
    assert (metrics["accuracy_cut_off_wrong"], metrics["accuracy_cut_off_right"]) == (0.75, 0.9)
    assert metrics["accuracy_uncut_low"] == compute_clopper_pearson_interval(150, N)[0]
    assert metrics["accuracy_uncut_high"] == compute_clopper_pearson_interval(180, N)[1]
    assert "accuracy_uncut_low" not in found["none"]["metrics"]
    _, out, _ = show("cut off", *BASELINE, "--format", "json")
    assert list(faults(json.loads(out), SCHEMA)) == []
    _, out, _ = show("cut off", *BASELINE, "--format", "csv")
    line = next(line for line in csv.DictReader(io.StringIO(out)) if line["job_id"] == "nf4")
    assert (line["cut_off"], line["difference_at_best"], line["without_limit_decides"]) == (
        "30.0",
        "0.0",
        "True",
    )


@pytest.mark.parametrize(
    ("term", "met", "reason"),
    [
        ("finding!=worse", False, "worse with cut-off answers at worst, required finding!=worse"),
        ("finding=worse", False, "no difference shown"),
        ("accuracy>=0.68", True, "accuracy 0.75 [0.684, 0.938] with cut-off answers wrong … right"),
        (
            "accuracy<0.8",
            False,
            f"[0.684, 0.938] with cut-off answers wrong … right, {UNDECIDED}, required accuracy<0.8",
        ),
        ("margin=5", False, f"{UNDECIDED} within 5 points"),
    ],
)
def test_requirements_use_the_worse_end(cut: Store, show: Any, term: str, met: bool, reason: str) -> None:
    code, out, _ = show("cut off", *BASELINE, "--require", term, "--format", "json", "--runs", "none", "nf4")
    (outcome,) = json.loads(out)["requirements"]
    assert (code == 0, outcome["met"]) == (met, met)
    assert reason in outcome["reason"]


def test_families_seeds_bets_and_unpaired_runs_have_both_ends(store: Store, rows: Any) -> None:
    """The baseline was cut off, too, so the ends are apart by both counts."""
    for name, config in (("none", NONE), ("nf4", NF4)):
        lost = 0 if name == "none" else 40
        cuts = range(180, 190) if name == "none" else range(40)
        for kind, more in (("bets", {"early_stop_comparisons": 1.0}), ("seeds", {})):
            tags = {"fact.early_stop_vs": "none-bets"} if kind == "bets" and name == "nf4" else {}
            for seed in range(2 if kind == "seeds" else 1):
                store.job(
                    f"cut {kind}", f"{name}-{kind}-{seed}", {**config, "seed": str(seed)}, marks(180, N, lost),
                    cut_off=cuts, tags=tags, metrics=more,
                )  # fmt: skip
        store.job("cut apart", name, config, marks(180, N, lost), cut_off=cuts, questions=name)
        in_families(store, "cut families", name, config, marks(180, N, lost), 5, cut_off=cuts)
    for kind, options in {
        "bets": (),
        "seeds": ("--seeds",),
        "apart": ("--unpaired",),
        "families": (),
    }.items():
        row = next(it for it in rows(f"cut {kind}", *BASELINE, *options).values() if not it["is_baseline"])
        ends = row["comparison"]["without_limit"]
        times = 2 if kind == "seeds" else 1
        assert (ends["cut_off"], ends["baseline_cut_off"], ends["decides"]) == (
            40 * times,
            10 * times,
            True,
        ), kind
        assert (ends["finding_as_counted"], row["comparison"]["finding"]) == ("worse", OPEN), kind
        assert (ends["at_worst"]["difference"], ends["at_best"]["difference"]) == pytest.approx(
            (-0.25, 0.0)
        ), kind


def test_a_row_is_not_dominated_where_cut_off_answers_decide(cut: Store, rows: Any) -> None:
    front = rows("cut off", *BASELINE, "--tolerance", "5")
    assert (front["nf4"]["dominated_by"], front["int8"]["dominated_by"]) == (None, "none")
