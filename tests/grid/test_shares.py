"""The jobs of a grid that stop early share 5 %: plan, workers, other launchers and Python agree,
and so does the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grids import results

import runner as package
from runner import compare

pytestmark = [
    pytest.mark.slow,  # grids are processes
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
Run = Callable[..., Any]  # the fixture `runner`: takes arguments, returns a finished command
BASELINE = "generation=greedy generation.max_new_tokens=256"
STUB = (
    *("model=stub", "task.extractor=flexible", "task.limit=30", "generation.max_new_tokens=256,2,1,255"),
    f"task.early_stop_vs='{BASELINE}'",
)


def shares(folder: Path) -> dict[str, Any]:
    """Return what each job has recorded, by its number of tokens."""
    jobs = results(folder).values()
    return {
        job["params"]["generation.max_new_tokens"]: job["result"]["metrics"].get("early_stop_comparisons")
        for job in jobs
    }


def ids(folder: Path) -> set[str]:
    return set(results(folder))


def test_all_ways_to_run_a_grid_give_its_jobs_the_same_share(
    runner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = runner("-m", *STUB, "plan=quick", "tracking=none")
    assert plan.code == 0, plan.err
    assert plan.out.count("after 30 questions. Significance level 1.7 % (5 % shared by 3 jobs)") == 3
    assert plan.out.count("early_stop_comparisons") == 0, "no column for a key that the user has not given"
    done = runner("-m", *STUB, "tracking=none", "print=none")
    assert done.code == 0, done.err
    assert shares(tmp_path) == {"256": None, "2": 3, "1": 3, "255": 3}
    planned = {word for word in plan.out.split() if word.startswith("gsm8k-")}
    assert ids(tmp_path) == planned
    again = runner("-m", *STUB, "tracking=none", "print=none")
    assert "4 jobs: 4 done" in again.err
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = runner("-m", *STUB, "tracking=none", "print=none", "hydra/launcher=basic", cwd=elsewhere)
    assert other.code == 0, other.err
    assert (ids(elsewhere), shares(elsewhere)) == (ids(tmp_path), shares(tmp_path))
    monkeypatch.chdir(tmp_path)
    rows = package.grid(*STUB, "tracking=none", "plan=quick")
    assert {row["job_id"]: row["status"] for row in rows} == dict.fromkeys(ids(tmp_path), "done")


@pytest.mark.thorough
def test_the_number_of_comparisons_that_the_user_gives_counts(runner: Run) -> None:
    given = runner("-m", *STUB, "task.early_stop_comparisons=8", "tracking=none", "plan=quick")
    assert given.out.count("Significance level 0.62 % (5 % shared by 8 jobs)") == 3
    twice = runner(
        "-m", *STUB[:3], "generation.max_new_tokens=256,2,2", STUB[-1], "tracking=none", "plan=quick"
    )
    assert twice.out.count("Significance level 5 %\n") == 2, "a job that is listed twice is one comparison"


@pytest.mark.thorough
def test_the_table_shows_what_the_jobs_have_decided(
    runner: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded model; one job may hardly repeat a digit, and one has no penalty, in other
    words."""
    words = "generation=greedy generation.max_new_tokens=96"
    jobs = (
        "task.limit=60",
        "generation.max_new_tokens=96",
        "generation.repetition_penalty=null,3,1",
        f"task.early_stop_vs='{words}'",
        "print=none",
    )
    for margin in ((), ("task.early_stop_margin=25",)):
        done = runner("-m", *jobs, *margin, "workers=1")
        assert done.code == 0, done.err
        options = ["--margin", "25"] * bool(margin)
        code = compare.main(
            [
                *("--output-dir", str(tmp_path / "outputs"), "--grid", "last", "--format", "json"),
                *("--baseline", "generation.repetition_penalty=null", *options),
            ]
        )
        captured = capsys.readouterr()
        assert code == 0, captured.err
        table = json.loads(captured.out)["tables"][0]
        by_penalty = {row["config"]["generation.repetition_penalty"]: row for row in table["rows"]}
        records = results(tmp_path)
        facts = {penalty: records[row["job_id"]]["result"]["facts"] for penalty, row in by_penalty.items()}
        bad, alike = (by_penalty[penalty]["comparison"] for penalty in ("3.0", "1.0"))
        assert (bad["finding"], alike["finding"]) == ("worse", "no difference shown")
        for penalty, comparison in (("3.0", bad), ("1.0", alike)):
            metrics = by_penalty[penalty]["metrics"]
            assert comparison["early_stop_comparisons"] == metrics["early_stop_comparisons"] == 2
            assert facts[penalty]["early_stop_level"] == "2.5 % (5 % shared by 2 jobs)"
            assert comparison["p"] == pytest.approx(metrics["early_stop_p"])
            for end in ("low", "high"):
                in_points = 100 * comparison[f"difference_{end}"]
                assert in_points == pytest.approx(metrics[f"early_stop_difference_points_{end}"])
        decisions = [by_penalty[penalty]["metrics"]["early_stop_decision"] for penalty in ("3.0", "1.0")]
        assert decisions == [-1, 0]
        if margin:
            assert (bad["verdict"], alike["verdict"]) == ("worse by more", "as good")
            assert by_penalty["1.0"]["metrics"]["questions_left"] > 0, (
                "it need not ask all to be called as good"
            )
        else:
            assert by_penalty["3.0"]["metrics"]["questions_left"] > 0
            assert by_penalty["1.0"]["metrics"]["questions_left"] == 0
        assert not any("have a wrong finding" in sentence for sentence in table["sentences"])
