"""--teams: rows of teams by name, all with one baseline; two different teams never share a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stores import Store, marks
from team_jobs import team

from runner.options.agents.teams_section import add_team_names_to_runs, describe_team
from runner_compare.model.data import TEAM, Run
from runner_compare.render.pictures import MAX_LABELS

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

N = 40


def run_of(job_id: str = "agents-1", trained: bool = False, task: str = "agents", **keys: str) -> Run:
    params = {
        f"task.{key}": value
        for key, value in {"mode": "chain", "decision_method": "final_refer", **keys}.items()
    }
    metrics = {"train_questions": 40.0} if trained else {}
    return Run(job_id, job_id, task, "3", job_id, params, metrics)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (run_of(), "chain"),
        (run_of(decision_method="majority_vote"), "chain · vote"),
        (run_of(optimized_spatial="True", trained=True), "chain · learned"),
        (
            run_of(optimized_spatial="True", method="agent_prune", trained=True),
            "chain · learned by agent_prune",
        ),
        (run_of(optimized_temporal="True", method="none", draw="True"), "chain · drawn"),
        (run_of(graph="graph.json"), "chain · given"),
        (run_of(mode="direct_answer", decision_method="direct"), "one agent"),
        (run_of(mode="direct_answer"), "one agent · decision"),
        (run_of(mode="direct_answer", samples="8", decision_method="majority_vote"), "one agent × 8 · vote"),
    ],
)
def test_a_team_is_named_by_what_it_is(run: Run, words: str) -> None:
    assert describe_team(run) == words


def test_teams_that_differ_in_a_key_never_share_a_name() -> None:
    rates = [
        run_of(f"agents-{rate}", trained=True, optimized_spatial="True", pruning_rate=rate)
        for rate in ("0.1", "0.2")
    ]
    other = run_of("agents-x", mode="star")
    named = [
        run.params[TEAM]
        for run in add_team_names_to_runs([*rates, other], ["task.mode", "task.pruning_rate", "seed"])
    ]
    assert named == [
        "chain · learned · task.pruning_rate=0.1",
        "chain · learned · task.pruning_rate=0.2",
        "star",
    ]


@pytest.mark.thorough
def test_names_of_teams_need_a_team(store: Store, show: Any) -> None:
    store.job("no teams", "alone", {}, marks(30, N))
    code, _, err = show("no teams", "--teams")
    assert code == 2
    assert "--teams names teams of task=agents, and there is no such job among these" in err


def test_teams_without_a_key_in_common_have_one_baseline(store: Store, rows: Any, show: Any) -> None:
    """Without --teams the drawn one has no baseline, since it differs from the single agent in
    other keys, too."""
    team(
        store,
        "teams",
        "alone",
        marks(30, N),
        [100] * N,
        [100] * N,
        mode="direct_answer",
        decision_method="direct",
    )
    team(store, "teams", "drawn", marks(20, N), [900] * N, [100] * N, optimized_spatial="True", method="none")
    words = "task.mode=direct_answer,task.decision_method=direct"
    without = rows("teams", "--baseline", words)["drawn"]
    assert (
        "differs in task.method (None, here none), task.optimized_spatial (False, here True)"
        in without["note"]
    )
    found = rows("teams", "--teams", "--baseline", "team=one agent")
    assert found["alone"]["is_baseline"]
    assert found["drawn"]["note"] is None
    assert found["drawn"]["config"] == {TEAM: "full_connected · drawn"}
    _, out, _ = show("teams", "--teams", "--baseline", "team=one agent")
    assert "• full_connected · drawn vs one agent (n=40): worse" in out
    assert "against one agent, on 40 questions that both runs answered: saves no tokens and costs" in out


@pytest.mark.thorough
def test_a_picture_of_many_teams_numbers_them_and_lists_their_names(
    store: Store, show: Any, tmp_path: Path
) -> None:
    for number in range(MAX_LABELS + 1):
        rate, tokens = f"0.{number + 10}", [500 + 10 * number] * N
        team(
            store, "many teams", f"team-{number}", marks(N - number, N), tokens, [100] * N, learning_rate=rate
        )
    code, _, err = show("many teams", "--teams", "--save", str(tmp_path))
    assert code == 0, err
    picture = (tmp_path / "tokens.svg").read_text()
    names = [f"…_connected · task.learning_rate=0.{number + 10}" for number in range(MAX_LABELS + 1)]
    assert all(picture.count(f">{number}  {name}<") == 1 for number, name in enumerate(names, 1)), picture[
        :2000
    ]
    assert all(f">{number}<" in picture for number in range(1, MAX_LABELS + 2))
