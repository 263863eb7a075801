"""Which runs are compared: --runs, --grid, --by; and the error message of each."""

from __future__ import annotations

from typing import Any

import pytest
from stores import INT8, NF4, NONE, Store, marks

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

BASELINE = "quantization=none"


def test_an_experiment_that_another_file_logs_into_is_refused(store: Store) -> None:
    """What is shown of it would depend on which of the files runs first."""
    store.files["of another file"] = "tests/recorded_runs/test_another.py"
    with pytest.raises(
        AssertionError, match="test_another.py and tests/recorded_runs/test_runs.py log into one"
    ):
        store.job("of another file", "base", NONE, marks(50, 100))
    store.job("of this file alone", "base", NONE, marks(50, 100))
    store.job("of this file alone", "again", NONE, marks(50, 100))


# --------------------------------------------------------------------------------------------
# --runs


@pytest.mark.thorough
def test_runs_by_job_run_and_beginning(grid: Store, rows: Any) -> None:
    assert set(rows("grid", "--runs", "none-test", "nf4-test")) == {"none-test", "nf4-test"}
    assert set(rows("grid", "--runs", "none-te", "int8-tr")) == {"none-test", "int8-train"}
    by_job = rows("grid")
    run_ids = [by_job[job]["run_id"] for job in ("nf4-test", "none-test")]
    assert set(rows("grid", "--runs", *run_ids)) == {"nf4-test", "none-test"}
    assert set(rows("grid", "--runs", run_ids[0][:16])) == {"nf4-test"}


def test_an_older_run_of_a_job_is_read_from_mlflow(store: Store, rows: Any) -> None:
    store.job("older", "base", NONE, marks(50, 100))
    store.job("older", "again", NF4, marks(20, 100))
    older = store.run_ids[-1]
    store.job("older", "again", NF4, marks(90, 100))  # writes over the job's folder
    row_by_job = rows("older", "--runs", "base", "again", older, "--baseline", BASELINE)
    assert row_by_job["again"]["comparison"]["wins"] == 40
    assert row_by_job[f"again@{older[:8]}"]["comparison"]["losses"] == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "none-tset"], "no finished job or run 'none-tset'. Did you mean none-test?"),
        (["--runs", "no"], "several runs begin with it: none-test, none-train"),
        (["--runs", "dead"], "no finished job or run 'dead'"),
        (["--grid", "last"], "no grid in experiment grid"),
        (
            ["--by", "quantisation"],
            "--by quantisation: no config key 'quantisation'. Did you mean quantization?",
        ),
        (
            ["--log"],
            "--log: the compared runs are not part of a grid. Save the comparison with --save FOLDER",
        ),
    ],
)
def test_mistakes(grid: Store, show: Any, arguments: list[str], message: str) -> None:
    code, out, err = show("grid", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


# --------------------------------------------------------------------------------------------
# --grid


@pytest.fixture(scope="session")
def grids(store: Store) -> dict[str, str]:
    """Two grids; the second one planned a job that the first one had done."""
    first = store.grid("grids", "f1", ["g-none", "g-nf4"])
    store.job("grids", "g-none", NONE, marks(80, 100), grid=first)
    store.job("grids", "g-nf4", NF4, marks(60, 100), grid=first)
    second = store.grid("grids", "5ec", ["g-none", "g-int8"])
    store.job("grids", "g-int8", INT8, marks(70, 100), grid=second)
    return {"first": first, "second": second}


def test_a_grid_holds_its_jobs_and_those_it_found_done(grids: dict[str, str], rows: Any) -> None:
    assert set(rows("grids")) == {"g-none", "g-nf4", "g-int8"}
    assert set(rows("grids", "--grid", "last")) == {"g-none", "g-int8"}
    assert set(rows("grids", "--grid", grids["first"][:12])) == {"g-none", "g-nf4"}
    assert set(rows("grids", "--grid", "5ec")) == {"g-none", "g-int8"}
    row_by_job = rows("grids", "--grid", "last", "--baseline", BASELINE)
    assert row_by_job["g-int8"]["comparison"]["losses"] == 10


def test_an_unknown_grid_lists_those_there_are(grids: dict[str, str], show: Any) -> None:
    code, _, err = show("grids", "--grid", "nope")
    assert code == 2
    assert f"no grid has this run id. Newest first: {grids['second']} (grid of 2 jobs)" in err


def test_log_needs_to_know_one_grid(grids: dict[str, str], show: Any) -> None:
    code, _, err = show("grids", "--log")
    assert code == 2
    assert "--log: the compared runs belong to 2 grids (" in err
    assert "Select one with --grid" in err


# ----------------------------------------------------------------------------------------------
# --by


@pytest.fixture(scope="session")
def splits(store: Store) -> Store:
    """Two quantizations × two splits with questions of their own, and a second seed of each."""
    for seed in ("0", "1"):
        for split in ("test", "train"):
            for quantization, right in ((NONE, 90), (NF4, 75 if split == "test" else 80)):
                name = f"{quantization['quantization.name']}-{split}-{seed}"
                config = {**quantization, "task.split": split, "seed": seed}
                numbers = {
                    "new_tokens": 1000.0,
                    "decode_tok_per_s": 100.0 if split == "test" else 300.0,
                    "load_s": 2.0,
                }
                numbers |= {"peak_rss_mib": 800.0 if split == "test" else 900.0}
                store.job("splits", name, config, marks(right, 100), questions=split, metrics=numbers)
    return store


@pytest.mark.thorough
def test_by_pools_splits(splits: Store, rows: Any) -> None:
    row_by_job = rows("splits", "--where", "seed=0", "--by", "quantization", "--baseline", BASELINE)
    assert set(row_by_job) == {"none-test-0+none-train-0", "nf4-test-0+nf4-train-0"}
    nf4 = row_by_job["nf4-test-0+nf4-train-0"]
    assert nf4["config"] == {"quantization.name": "nf4"}
    assert (nf4["metrics"]["n"], nf4["metrics"]["correct"], nf4["metrics"]["accuracy"]) == (200, 155, 0.775)
    assert (nf4["comparison"]["wins"], nf4["comparison"]["losses"], nf4["comparison"]["ties"]) == (0, 25, 175)
    assert nf4["metrics"]["peak_rss_mib"] == 900
    assert nf4["metrics"]["new_tokens"] == 2000
    # 2,000 tokens in 10 s and 3.33 s
    assert nf4["metrics"]["decode_tok_per_s"] == pytest.approx(150)
    assert nf4["metrics"]["load_s"] == 2


def test_by_never_counts_a_question_twice(splits: Store, show: Any) -> None:
    code, _, err = show("splits", "--by", "quantization", "--where", "task.split=test")
    assert code == 2
    assert "the 2 runs of quantization=nf4 answered the same questions" in err
    assert "(seed: 0, 1). Add the differing keys to --by" in err


def test_by_compares_within_the_other_keys_named(splits: Store, rows: Any) -> None:
    row_by_job = rows("splits", "--by", "quantization,seed", "--baseline", BASELINE)
    assert len(row_by_job) == 4
    for seed in ("0", "1"):
        nf4 = row_by_job[f"nf4-test-{seed}+nf4-train-{seed}"]
        assert nf4["comparison"]["baseline_job_id"] == f"none-test-{seed}+none-train-{seed}"


def test_by_reports_other_differences(store: Store, rows: Any) -> None:
    store.job("also", "base", NONE, marks(50, 100))
    store.job("also", "nf4", {**NF4, "generation.temperature": "0.5"}, marks(40, 100))
    row = rows("also", "--by", "quantization", "--baseline", BASELINE)["nf4"]
    assert row["comparison"]["remark"] == "also different: generation.temperature (0.0, here 0.5)"
    assert rows("also", "--baseline", BASELINE)["nf4"]["comparison"] is None
