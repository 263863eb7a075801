"""hydra.sweeper.prune=true: only trials that are worse stop early, and the best one is the same as
without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from grids import Grid, results, samples, wait_for
from stored import read_together

from runner.options.launchers.pruning import (
    AGAINST,
    FULL,
    TrialOutcome,
    build_early_stopping_overrides,
    decide_trial_outcome,
)
from runner_base.result import Record, Result, Status

pytest.importorskip("optuna", reason="pip install 'runner-llm[dev]'")

# the embedded model solves most problems at temperature 0.1, fewer the hotter it is
SEARCH = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler.name=grid", "hydra.sweeper.n_jobs=1",
          "generation=sampling", "generation.temperature=0.1,0.2,3.0,4.0,5.0",
          "generation.max_new_tokens=96", "tracking=none")  # fmt: skip


QUESTIONS = 64  # enough to see which is worse, and few enough to answer all of them in the control
LONG_SEARCH = (*SEARCH, "task.limit=150")  # long enough to be killed amid a trial


def trials(outputs: Path) -> dict[float, tuple[str, float | None]]:
    """Return state and score of each trial by its temperature; the choices are numbered in the
    database."""
    query = """
        select param_value, distribution_json, state, value from trials join trial_params using (trial_id)
        left join trial_values using (trial_id)
    """
    with read_together(outputs / "searches.db") as database:
        found: list[tuple[float, str, str, float | None]] = [*database.execute(query)]
    return {
        json.loads(choices)["attributes"]["choices"][int(at)]: (state, score)
        for at, choices, state, score in found
    }


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_pruned_is_worse_and_the_best_is_the_same(
    runner: Callable[..., Any], tmp_path: Path, seed: int
) -> None:
    for folder in ("pruned", "whole"):
        (tmp_path / folder).mkdir()
    search = (*SEARCH, f"task.limit={QUESTIONS}", f"hydra.sweeper.sampler.seed={seed}")
    pruned = runner(*search, "hydra.sweeper.prune=true", cwd=tmp_path / "pruned")
    assert pruned.code == 0, pruned.err
    whole = runner(*search, cwd=tmp_path / "whole")
    assert whole.code == 0, whole.err
    truth = {key: score for key, (_, score) in trials(tmp_path / "whole" / "outputs").items()}
    found = trials(tmp_path / "pruned" / "outputs")
    assert len(truth) == len(found) == 5
    best = max(score for score in truth.values() if score is not None)
    for key, (state, score) in found.items():
        if state == "PRUNED":
            assert (truth[key] or 0) < best, "the control: what it would have scored"
        else:
            assert (state, score) == ("COMPLETE", truth[key]), "a score that counts is that of all questions"
    assert [state for state, _ in found.values()].count("PRUNED") >= 2
    assert f"accuracy {100 * best:.1f}%" in pruned.out.split("best of 5 trials: ")[1]
    assert "early_stop" not in pruned.out, "what the search sets itself is no column"
    assert pruned.out.count(" pruned ") == [state for state, _ in found.values()].count("PRUNED")
    asked = [record["result"]["metrics"] for record in results(tmp_path / "pruned").values()]
    assert all(it["questions_asked"] < QUESTIONS for it in asked if it.get("questions_left"))
    again = runner(*search, "hydra.sweeper.prune=true", "print=full", cwd=tmp_path / "pruned")
    assert "5 trials are complete, 0 interrupted trials" in again.err
    assert again.out.count("gsm8k-") >= 5


@pytest.mark.thorough
def test_a_search_that_is_killed_prunes_as_one_that_is_not(
    runner: Callable[..., Any], tmp_path: Path
) -> None:
    """Killed amid a trial that is compared: it goes on against the same job, and the same trials
    are pruned."""
    search = [*LONG_SEARCH, "hydra.sweeper.sampler.seed=1", "hydra.sweeper.prune=true"]
    jobs = tmp_path / "killed" / "outputs" / "jobs"
    for kill in (1, 2):
        one = Grid(tmp_path / "killed", search, name=f"{kill}-")
        try:
            wait_for(partial(is_amid_a_comparison, jobs, kill), 120)
        finally:
            one.process.kill()
            one.wait()
    begun = {path.parent.name: len(path.read_text().splitlines()) for path in jobs.glob("*/samples.jsonl")}
    for folder in ("killed", "alone"):
        (tmp_path / folder).mkdir(exist_ok=True)
        done = runner(*search, cwd=tmp_path / folder)
        assert done.code == 0, done.err
    killed, alone = (trials(tmp_path / folder / "outputs") for folder in ("killed", "alone"))
    assert killed == alone
    assert compared(tmp_path / "killed" / "outputs") == compared(tmp_path / "alone" / "outputs")
    assert [state for state, _ in killed.values()].count("PRUNED") >= 2
    assert results(tmp_path / "killed").keys() == results(tmp_path / "alone").keys()
    assert samples(tmp_path / "killed").keys() >= begun.keys(), "what was begun is not lost"


def is_amid_a_comparison(jobs: Path, ended: int) -> bool:
    """Whether so many jobs have ended with a comparison, and another one has some samples and no
    end."""
    records = {path.parent.name: json.loads(path.read_text()) for path in jobs.glob("*/result.json")}
    with_end = [it for it in records.values() if "early_stop_decision" in it["result"]["metrics"]]
    running = [path for path in jobs.glob("*/samples.jsonl") if path.parent.name not in records]
    compared_now = [
        path for path in running if "early_stop_vs: gsm8k" in path.with_name("config.yaml").read_text()
    ]
    return len(with_end) >= ended and any(path.read_text().count("\n") >= 8 for path in compared_now)


def compared(outputs: Path) -> set[tuple[str, str]]:
    """Return what the trials are compared with, as the study has it."""
    query = "select key, value_json from trial_user_attributes"
    with read_together(outputs / "searches.db") as database:
        return {(key, value) for key, value in database.execute(query) if key in (AGAINST, FULL)}


def record(decision: int | None = None, left: int = 0, accuracy: float = 0.5) -> Record:
    compared = {} if decision is None else {"early_stop_decision": decision}
    return Record("x", Status.FINISHED, "", Result({"questions_left": left, "accuracy": accuracy} | compared))


@pytest.mark.parametrize(
    ("of", "fate"),
    [
        (record(), TrialOutcome.complete),
        (record(-1, 118), TrialOutcome.pruned),
        (record(-1), TrialOutcome.complete),
        (record(1, 110), TrialOutcome.in_full),
        (record(1, accuracy=0.9), TrialOutcome.in_full),
        (record(0, accuracy=0.7), TrialOutcome.in_full),
        (record(0, accuracy=0.6), TrialOutcome.complete),
    ],
)
def test_what_becomes_of_a_trial(of: Record, fate: TrialOutcome) -> None:
    assert decide_trial_outcome(of, best_score=0.6) is fate


def test_how_a_trial_is_compared() -> None:
    assert build_early_stopping_overrides(None) == []
    assert build_early_stopping_overrides({"job": "gsm8k-1", "comparisons": 4}) == [
        "task.early_stop_vs=gsm8k-1",
        "task.early_stop_comparisons=4",
    ]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("task=likelihood",), "hydra.sweeper.prune=true: task=likelihood: pruning needs task=gsm8k"),
        (("hydra.sweeper.direction=minimize",), "pruning works only for direction=maximize"),
        (("task.shots=0,1",), "hydra.sweeper.prune=true: task.shots is searched over"),
        (
            ("hydra/launcher=basic",),
            "pruning needs the progress of running jobs. Use hydra/launcher=workers or ray",
        ),
    ],
)
def test_what_cannot_be_pruned_is_said_first(
    runner: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = runner(*LONG_SEARCH, "hydra.sweeper.prune=true", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err.splitlines()[-1]
    assert not (tmp_path / "outputs" / "searches.db").exists()
