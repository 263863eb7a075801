from __future__ import annotations

from typing import Any

import pytest

from runner.config.agents import AgentsConfig, Attack, Baseline, DecisionMethod, Mode
from runner.config.root import semantic_keys
from runner.config.task import Gold
from runner.core.errors import ConfigError


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"agents": 0}, r"task.agents=0: must lie in 1..64"),
        ({"agents": 65}, r"task.agents=65: must lie in 1..64"),
        ({"num_rounds": 0}, "task.num_rounds=0: must lie in 1..100"),
        ({"batch_size": 0}, "task.batch_size=0: must be 1 or more"),
        ({"num_iterations": 0}, "task.num_iterations=0"),
        ({"imp_per_iterations": 0}, "task.imp_per_iterations=0"),
        ({"nuclear_norm": -1.0}, "task.nuclear_norm=-1.0: must be 0 or more"),
        ({"train_offset": -1}, "task.train_offset=-1"),
        ({"learning_rate": 0.0}, "task.learning_rate=0.0: must be more than 0"),
        ({"code_timeout_s": 0.0}, "task.code_timeout_s=0.0: must be more than 0"),
        ({"pruning_rate": 1.0}, r"task.pruning_rate=1.0: must lie in \[0, 1\); 0: no pruning"),
        ({"initial_probability": 1.0}, "task.initial_probability=1.0: must lie between 0 and 1"),
        ({"roles": []}, r"task.roles=\[\]: give one role or more of math_solver, mathematical_analyst"),
        ({"train_split": " "}, "task.train_split=' '"),
        ({"graph": ""}, "task.graph='': give a graph.json that an earlier job has saved, or null"),
        ({"limit": 0}, "task.limit=0"),
        (
            {"attack_agent": 2},
            r"task.attack_agent=2: nobody is attacked: give task.attack=liar\|false_answer\|cut_link",
        ),
        ({"attack": Attack.liar, "attack_agent": 5}, r"task.attack_agent=5: must lie in 1..4, the agents of the team"),
        ({"attack": Attack.liar, "attack_agent": 0}, r"task.attack_agent=0: must lie in 1..4"),
        ({"attack": Attack.liar, "agents": 1}, "task.attack=liar: there must be an honest agent beside the attacked"),
        ({"attack": Attack.cut_link, "mode": Mode.direct_answer}, "task.attack=cut_link: there must be an honest"),
        (
            {"mode": Mode.direct_answer, "optimized_spatial": True},
            "task.optimized_spatial=True: task.mode=direct_answer has no edges to optimize: use another task.mode",
        ),
        (
            {"graph": "g.json", "optimized_spatial": True},
            "task.optimized_spatial=True: task.graph=g.json is used as it is: leave one of the two out",
        ),
        (
            {"mode": Mode.debate, "num_rounds": 2, "optimized_spatial": True},
            "task.optimized_spatial=true: in task.mode=debate no agent hears another in its own round",
        ),
        (
            {"num_rounds": 2, "optimized_temporal": True, "nuclear_norm": 0.1},
            "task.nuclear_norm=0.1 is a penalty on learned spatial edges",
        ),
        (
            {"optimized_temporal": True},
            "task.optimized_temporal=true: temporal edges lead from one round to the next, and task.num_rounds=1: use",
        ),
    ],
)
def test_a_team_that_cannot_be_names_its_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgentsConfig(**keys)


def test_how_much_a_team_asks() -> None:
    plain = AgentsConfig(limit=10)
    assert (plain.questions, plain.train_questions, plain.is_trained) == (50, 0, False)
    trained = AgentsConfig(limit=10, num_rounds=2, optimized_temporal=True, decision_method=DecisionMethod.direct)
    assert (trained.questions, trained.train_questions) == ((10 + 40) * 8, 40)
    assert AgentsConfig(limit=10, mode=Mode.direct_answer).questions == 20
    assert AgentsConfig(mode=Mode.star, optimized_spatial=True).subject == "star pruned test"
    assert plain.baseline is Baseline.none


def test_an_attack_counts_only_if_there_is_one(make_config: Any) -> None:
    """So the jobs that were recorded before the key was there keep their ids."""
    plain, first, second = (
        set(semantic_keys(make_config(task=AgentsConfig(**keys))))
        for keys in ({}, {"attack": Attack.liar}, {"attack": Attack.liar, "attack_agent": 2})
    )
    assert not [key for key, _ in plain if "attack" in key]
    assert first - plain == {("task.attack", "liar")}
    assert second - first == {("task.attack_agent", 2)}
    assert plain < first < second


def test_an_attack_is_named() -> None:
    assert AgentsConfig(mode=Mode.star, attack=Attack.cut_link).subject == "star cut_link test"


def test_letters_are_answers_too() -> None:
    assert AgentsConfig(choices_key="options").has_letters
    assert AgentsConfig(gold=Gold.letter).has_letters
    assert not AgentsConfig().has_letters
