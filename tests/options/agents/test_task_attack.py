"""An attack on a team as a job: what it counts, what its graph keeps, and that a restart makes up
the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from tasking import work
from teams import Starts, Team, calls_in, right, team

from runner.config.root import RunnerConfig
from runner.options.agents import task as agents
from runner.options.agents.keys import Attack, DecisionMethod, Mode
from runner.report import headline
from runner_base.result import CALLS, GRAPH

Make = Callable[..., RunnerConfig]


def test_a_job_counts_what_came_of_a_false_answer(make_config: Make, again: Starts) -> None:
    task = team(
        mode=Mode.full_connected, optimized_spatial=True, num_iterations=4, imp_per_iterations=2,
        attack=Attack.false_answer, attack_agent=2,
    )  # fmt: skip
    config = make_config(task=task)
    result = work(agents, config, again(), Team(right(config)))
    metrics = result.metrics
    assert (metrics["told_lies"], metrics["followed_attack"], metrics["honest_accuracy"]) == (3, 0, 1)
    assert (metrics["attacked_prompt_tokens"], metrics["attacked_new_tokens"]) == (300, 9)
    assert metrics["attacked_edges_before"] == 3
    graph = json.loads((again().folder / GRAPH).read_text())
    assert metrics["attacked_edges_after"] == sum(graph["spatial"]["live"][1])
    assert (graph["learned"]["settings"]["attack"], graph["learned"]["settings"]["attack_agent"]) == (
        "false_answer",
        2,
    )
    assert result.facts["attacked"] == "agent 2, Inspector: false_answer"
    assert headline(metrics)["attack"].startswith(
        "followed 0 of 3 lies · 300 prompt · 9 new tokens of the attacked"
    )


def test_a_decision_that_believes_the_liar_follows_it(make_config: Make, again: Starts) -> None:
    """The truth is known: all but one say what is right, and the decision repeats what that one is
    taken to have said."""
    config = make_config(task=team(attack=Attack.false_answer, attack_agent=3))
    say = right(config)

    def believes(key: str, prompt: str) -> str:
        told = next((line for line in prompt.splitlines() if line.startswith("3: ")), "")
        return told if key.endswith("decision") else say(key, prompt)

    metrics = work(agents, config, again(), Team(believes)).metrics
    assert (metrics["accuracy"], metrics["followed_attack"], metrics["told_lies"]) == (0, 3, 3)
    assert metrics["honest_accuracy"] == 1


def test_an_attacked_agent_that_decides_alone(make_config: Make, again: Starts) -> None:
    config = make_config(
        task=team(attack=Attack.false_answer, attack_agent=4, decision_method=DecisionMethod.direct)
    )
    recorder = again()
    metrics = work(agents, config, recorder, Team(right(config))).metrics
    assert (metrics["accuracy"], metrics["followed_attack"]) == (0, 3)
    for sample in recorder.done.values():
        assert sample.answer.extracted is not None
        assert sample.answer.text == f"#### {sample.answer.extracted['team']}", "text and answer agree"


def test_a_liar_that_is_right_has_told_no_lie(make_config: Make, again: Starts) -> None:
    config = make_config(task=team(attack=Attack.liar))
    say = right(config)
    honest = work(agents, config, again(), Team(say)).metrics
    assert (honest["told_lies"], honest["followed_attack"]) == (0, 0)
    recorder = again()
    asked = {line["id"] for line in calls_in(recorder)}
    assert len(asked) == 15
    for name in (CALLS, "samples.jsonl"):
        (recorder.folder / name).unlink()
    liar = work(
        agents, config, again(), Team(lambda key, prompt: "-77" if "You lie" in prompt else say(key, prompt))
    )
    assert (liar.metrics["told_lies"], liar.metrics["followed_attack"], liar.metrics["accuracy"]) == (3, 0, 1)


@pytest.mark.parametrize("attack", [Attack.liar, Attack.false_answer, Attack.cut_link])
def test_a_restart_asks_only_what_is_missing(make_config: Make, again: Starts, attack: Attack) -> None:
    config = make_config(task=team(mode=Mode.full_connected, num_rounds=2, attack=attack))
    say = right(config)
    first = work(agents, config, again(), Team(say))
    recorder = again()
    lines = (recorder.folder / CALLS).read_text().splitlines(keepends=True)
    assert len(lines) == 27
    (recorder.folder / CALLS).write_text("".join(lines[:13]))
    (recorder.folder / "samples.jsonl").unlink()
    engine = Team(say)
    second = work(agents, config, again(), engine)
    assert len(engine.asked) == 14, "what was recorded is found by its prompt"
    names = [name for name in first.metrics if "attack" in name or "honest" in name or "edges" in name]
    assert {name: second.metrics[name] for name in names} == {name: first.metrics[name] for name in names}
    assert second.metrics["attacked_edges_after"] == 6
    assert ("told_lies" in second.metrics) == (attack is not Attack.cut_link), (
        "where links are cut, nobody lies"
    )


def test_without_an_attack_nothing_is_said_of_one(make_config: Make, again: Starts) -> None:
    config = make_config(task=team())
    result = work(agents, config, again(), Team(right(config)))
    assert not [name for name in result.metrics if "attack" in name or "honest" in name]
    assert "attacked" not in result.facts


def test_a_command_with_an_attack(runner: Callable[..., Any]) -> None:
    done = runner(
        "model=stub",
        "task=agents",
        "task.attack=false_answer",
        "task.attack_agent=3",
        "task.limit=2",
        "tracking=none",
    )
    assert done.code == 0, done.err
    assert re.search(r"attack +followed \d of 2 lies", done.out)
    assert "agent 3, Programming Expert: false_answer" in done.out
    refused = runner("model=stub", "task=agents", "task.attack=lier", "tracking=none")
    assert refused.code == 2
    assert "task.attack=lier" in refused.err
