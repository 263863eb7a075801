"""--seeds: jobs that differ only in their seed are one row, with intervals over questions and
seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from json_schema import SCHEMA, faults
from stores import NF4, NONE, Store, marks
from team_jobs import team

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

N, SEEDS = 60, 5
BASELINE = ["--baseline", "task.mode=full_connected", "--seeds"]


@pytest.fixture(scope="module")
def grids(store: Store) -> Store:
    """Two topologies with five seeds each: star has as many right answers in the mean, and seeds
    far apart."""
    draw = np.random.default_rng(5)
    for seed in range(SEEDS):
        fixed = [int(it) for it in draw.integers(900, 1100, size=N)]
        team(store, "team-seeds", f"full-{seed}", marks(40 + seed, N), fixed, [100] * N, seed=seed)
        fewer = [it - 100 - 5 * seed for it in fixed]
        team(
            store,
            "team-seeds",
            f"star-{seed}",
            marks(20 + 10 * seed, N),
            fewer,
            [100] * N,
            mode="star",
            seed=seed,
        )
    return store


def table_of(show: Any, experiment: str, *arguments: str) -> dict[str, Any]:
    code, out, err = show(experiment, "--format", "json", *arguments)
    assert (code, err) == (0, "")
    assert list(faults(json.loads(out), SCHEMA)) == []
    (table,) = json.loads(out)["tables"]
    return dict(table)


@pytest.mark.thorough
def test_a_row_is_the_mean_over_its_seeds(grids: Store, show: Any) -> None:
    table = table_of(show, "team-seeds", *BASELINE)
    rows = {row["config"]["task.mode"]: row for row in table["rows"]}
    assert rows["full_connected"]["metrics"]["accuracy"] == pytest.approx(np.mean([40, 41, 42, 43, 44]) / N)
    seeds = rows["star"]["seeds"]
    assert [(one["seed"], one["job_id"]) for one in seeds] == [(f"{it}", f"star-{it}") for it in range(SEEDS)]
    assert [one["accuracy"] for one in seeds] == pytest.approx([(20 + 10 * it) / N for it in range(SEEDS)])
    assert rows["star"]["metrics"]["spatial_edges_after"] == 6, "the mean, not the sum"
    assert rows["star"]["tokens"]["seeds"] == SEEDS
    assert rows["star"]["saved"]["finding"] == "saves"
    low, high = (rows["star"]["saved"][f"tokens_a_question_{end}"] for end in ("low", "high"))
    assert low <= 110 <= high


def test_seeds_that_are_far_apart_widen_the_interval(grids: Store, show: Any) -> None:
    table = table_of(show, "team-seeds", *BASELINE)
    star, full = (row for row in sorted(table["rows"], key=lambda row: row["is_baseline"]))
    widths = [row["metrics"]["accuracy_high"] - row["metrics"]["accuracy_low"] for row in (full, star)]
    assert widths[1] > 1.5 * widths[0]
    comparison = star["comparison"]
    assert (comparison["method"], comparison["finding"]) == ("over_seeds", "no difference shown")
    assert comparison["difference_low"] < -0.15, "as far as the seeds show"


def test_the_output_says_how_far_seeds_are_apart(grids: Store, show: Any, tmp_path: Path) -> None:
    _, out, _ = show("team-seeds", *BASELINE)
    assert "60 × 5 seeds" in out
    assert "how far seeds are apart" in out
    assert "0, 1, 2, 3, 4 70.0 ± 2.6 (66.7–73.3)" in " ".join(out.split())
    assert "(n=60, mean of 5 seeds): no difference shown" in out
    assert "For means over seeds, p and interval cover questions and seeds (Student's t)" in out
    assert show("team-seeds", *BASELINE, "--save", str(tmp_path))[0] == 0
    page = (tmp_path / "comparison.html").read_text()
    assert "how far seeds are apart" in page
    answers = (tmp_path / "samples.html").read_text()
    assert all(f'"star seed={seed}"' in answers or f"seed={seed}" in answers for seed in range(SEEDS))
    assert "| 60 × 5 seeds |" in (tmp_path / "comparison.md").read_text()


@pytest.mark.thorough
def test_one_seed_of_a_baseline_is_compared_with_several(store: Store, show: Any) -> None:
    team(store, "team-one", "full", marks(50, N), [500] * N, [50] * N)
    for seed in range(3):
        team(
            store,
            "team-one",
            f"star-{seed}",
            marks(20 + seed, N),
            [600] * N,
            [50] * N,
            mode="star",
            seed=seed,
        )
    table = table_of(show, "team-one", *BASELINE)
    (star,) = (row for row in table["rows"] if not row["is_baseline"])
    assert star["comparison"]["finding"] == "worse"
    assert star["saved"]["finding"] == "costs more"


def test_a_named_job_stands_for_all_its_seeds(grids: Store, show: Any) -> None:
    by_key, by_job = (
        table_of(show, "team-seeds", "--seeds", "--baseline", baseline)
        for baseline in (BASELINE[1], "job_id=full-3")
    )
    rows = [next(row for row in table["rows"] if not row["is_baseline"]) for table in (by_key, by_job)]
    assert rows[0]["comparison"] == rows[1]["comparison"]
    assert rows[0]["saved"] == rows[1]["saved"]


@pytest.mark.thorough
def test_word_problems_have_seeds_too(store: Store, show: Any) -> None:
    for seed in range(3):
        store.job("team-problems", f"none-{seed}", {**NONE, "seed": f"{seed}"}, marks(50, N))
        store.job("team-problems", f"nf4-{seed}", {**NF4, "seed": f"{seed}"}, marks(20, N))
    table = table_of(show, "team-problems", "--baseline", "quantization=none", "--seeds")
    (row,) = (row for row in table["rows"] if not row["is_baseline"])
    assert (row["comparison"]["finding"], row["config"]) == ("worse", {"quantization.name": "nf4"})
    assert "pareto" not in " ".join(table["sentences"]).lower(), "the front counts questions only"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by", "task.mode"], "--seeds makes one row of all seeds of a configuration: leave out --by"),
        (["--flips", "full-0", "star-0"], "leave out --flips"),
        (
            ["--runs", "full-0", "star-0"],
            "--seeds: no two of these runs differ only in their seed. Run a grid",
        ),
    ],
)
def test_options_that_do_not_go_with_seeds(grids: Store, show: Any, arguments: list[str], words: str) -> None:
    code, _, err = show("team-seeds", "--seeds", *arguments)
    assert code == 2
    assert words in err


def test_seeds_with_other_questions_are_rejected_by_name(store: Store, show: Any) -> None:
    team(store, "team-unequal", "a", marks(40, N), [9] * N, [1] * N, seed=0)
    team(store, "team-unequal", "b", marks(40, N - 1), [9] * (N - 1), [1] * (N - 1), seed=1)
    code, _, err = show("team-unequal", "--seeds")
    assert (code, "a, b answered different questions (60, 59)" in err) == (2, True)
    team(store, "team-twice", "a", marks(40, N), [9] * N, [1] * N, seed=0)
    team(store, "team-twice", "b", marks(40, N), [9] * N, [1] * N, seed=0)
    code, _, err = show("team-twice", "--seeds")
    assert (code, "several runs with equal configs have the same seed (a, b)" in err) == (2, True)
