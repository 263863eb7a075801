from __future__ import annotations

from typing import Any

import pytest

from runner.config.compose import compose_job
from runner.config.error_messages import convert_config_errors
from runner.config.extractors import GoldKind
from runner.config.hydra import to_runner_config
from runner.options.agents import task as agents
from runner.options.agents.keys import AgentsConfig, Baseline, DecisionMethod, Topology, TrainingMethod
from runner.tasks import named_job
from runner_base.errors import ConfigError


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
        ({"pruning_rate": 1.0}, r"task.pruning_rate=1.0: must be at least 0 and less than 1"),
        ({"initial_probability": 1.0}, "task.initial_probability=1.0: must lie strictly between 0 and 1"),
        (
            {"roles": []},
            r"task.roles=\[\]: the list is empty. Give roles from math_solver, mathematical_analyst",
        ),
        ({"train_split": " "}, "task.train_split=' '"),
        ({"graph": ""}, "task.graph='': give a graph.json that an earlier job has saved, or null"),
        ({"limit": 0}, "task.limit=0"),
        (
            {"mode": Topology.direct_answer, "optimized_spatial": True},
            "task.optimized_spatial=True: task.mode=direct_answer has no edges to optimize. Use another task.mode",
        ),
        (
            {"graph": "g.json", "optimized_spatial": True},
            "task.optimized_spatial=True: task.graph=g.json has fixed edges. Remove task.graph or this key",
        ),
        (
            {"mode": Topology.debate, "num_rounds": 2, "optimized_spatial": True},
            "task.optimized_spatial=true: in task.mode=debate no agent reads replies of the same round",
        ),
        (
            {"num_rounds": 2, "optimized_temporal": True, "nuclear_norm": 0.1},
            "task.nuclear_norm=0.1 penalizes learned spatial edges",
        ),
        (
            {"optimized_spatial": True, "method": TrainingMethod.agent_prune, "baseline": Baseline.mean},
            "task.baseline=mean: has no effect with task.method=agent_prune: its loss has no baseline. .*default: none",
        ),
        (
            {"optimized_spatial": True, "method": TrainingMethod.agent_prune, "imp_per_iterations": 2},
            "task.imp_per_iterations=2: has no effect with task.method=agent_prune: this method prunes only once, after the last iteration",
        ),
        (
            {"optimized_spatial": True, "method": TrainingMethod.agent_prune, "nuclear_norm": 0.5},
            "task.nuclear_norm=0.5: has no effect with task.method=agent_prune: its nuclear norms have weight 1",
        ),
        (
            {"delta": 0.2},
            r"task.delta=0.2: has no effect with task.method=runner: its loss has no such term.*default: 0.1",
        ),
        ({"delta": -0.1}, "task.delta=-0.1: must be 0 or more"),
        (
            {"method": TrainingMethod.agent_prune},
            "task.method=agent_prune: this method needs trainable edges. Give task",
        ),
        (
            {"method": TrainingMethod.agent_prune, "graph": "g.json"},
            "task.method=agent_prune: task.graph=g.json has fixed edges",
        ),
        (
            {"draw": True},
            "task.draw=True: the graph has no random edges. Give task.optimized_spatial=true or task.graph",
        ),
        (
            {"optimized_temporal": True},
            "task.optimized_temporal=true: temporal edges connect two rounds, but task.num_rounds=1. Use",
        ),
    ],
)
def test_a_team_that_cannot_be_names_its_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgentsConfig(**keys)


def test_how_much_a_team_asks() -> None:
    plain = AgentsConfig(limit=10)
    assert (plain.expected_completions, plain.num_training_questions, plain.is_trained) == (50, 0, False)
    trained = AgentsConfig(
        limit=10, num_rounds=2, optimized_temporal=True, decision_method=DecisionMethod.direct
    )
    assert (trained.expected_completions, trained.num_training_questions) == ((10 + 40) * 8, 40)
    assert AgentsConfig(limit=10, mode=Topology.direct_answer).expected_completions == 20
    assert AgentsConfig(mode=Topology.star, optimized_spatial=True).subject == "star pruned test"
    assert plain.baseline is Baseline.none


def test_letters_are_answers_too() -> None:
    assert AgentsConfig(choices_key="options").has_letters
    assert AgentsConfig(answer_type=GoldKind.letter).has_letters
    assert not AgentsConfig().has_letters


def test_what_a_method_asks_and_how_it_is_scored() -> None:
    keys: dict[str, Any] = {
        "limit": 10,
        "num_rounds": 2,
        "optimized_spatial": True,
        "optimized_temporal": True,
    }
    coin = AgentsConfig(method=TrainingMethod.none, draw=True, **keys)
    assert (coin.is_trained, coin.num_training_questions, coin.draws_edges, coin.subject) == (
        False,
        0,
        True,
        "full_connected drawn test",
    )
    scored = {method: AgentsConfig(method=method, **keys).draws_edges for method in TrainingMethod}
    assert [method for method, draws in scored.items() if draws] == [TrainingMethod.agent_prune_code]
    assert not AgentsConfig(method=TrainingMethod.agent_prune_code, draw=False, **keys).draws_edges


def test_another_seed_takes_the_place_of_repeats() -> None:
    message = (
        "^task.repeat_index: only task=.*task=likelihood, .*task=recall, .* and task=tools .* another seed"
    )
    with pytest.raises(ConfigError, match=message), convert_config_errors():
        compose_job(["task=agents", "task.repeat_index=1"])


@pytest.mark.parametrize(
    ("data", "job_id"),  # of the last version whose default was task.cluster=null
    [("embedded", "agents-fc564fe83504"), ("embedded_hard", "agents-80e3d988c0e6"), ("embedded_hard5", "")],
)
def test_embedded_problems_count_templates_under_the_ids_of_before(data: str, job_id: str) -> None:
    overrides = ["model=stub", "task=agents", f"task.data={data}"]
    config = to_runner_config(*compose_job(overrides))
    assert config.task.questions_config.cluster == "template"
    found = agents.prepare(config)
    assert None not in {item.cluster for item in found.items}
    assert "clusters" not in found.hashes
    own_id = named_job.build_job(config, agents.VERSION, found.hashes).job_id
    assert job_id in ("", own_id)
    without = to_runner_config(*compose_job([*overrides, "task.cluster=null"]))
    hashes = agents.prepare(without).hashes
    assert named_job.build_job(without, agents.VERSION, hashes).job_id != own_id
