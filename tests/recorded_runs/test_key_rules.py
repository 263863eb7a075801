"""The rules for other tools' settings name the runner's keys: they are what the schema says of
them."""

from __future__ import annotations

import pytest
from options_here import absent

from runner.recorded_runs.key_rules import SchemaRules
from runner.records.flat_config import format_config_value
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_compare.model.key_rules import KeyRules


@pytest.mark.parametrize("config", [{}, {"task.name": "gsm8k"}, {"task.name": "a task of another tool"}])
def test_the_same_keys_count(config: dict[str, str]) -> None:
    plain, of_schema = (
        KeyRules().find_keys_without_effect(config),
        SchemaRules().find_keys_without_effect(config),
    )
    assert plain >= of_schema
    assert plain == of_schema or absent(), "the others are keys of an option"


def test_the_same_values_mean_the_same() -> None:
    plain, of_schema = KeyRules(), SchemaRules()
    assert plain.written_alike == of_schema.written_alike
    assert plain.defaults == of_schema.defaults
    assert [*plain.order] == [key for key in of_schema.order if key not in plain.find_keys_without_effect({})]


def test_records_from_before_a_key_of_a_task_have_its_default() -> None:
    defaults = {
        key.removeprefix("task."): it for key, it in KeyRules.defaults.items() if key.startswith("task.")
    }
    of_likelihood = {
        key: format_config_value(getattr(LikelihoodConfig(), key))
        for key in ("context_lengths", "last_tokens")
    }
    of_agents = {"role_adapters": "{}"}
    gone = {
        "attack": "none",
        "attack_agent": "1",
        "match": "null",
        "node_pruning_rate": "0.2",
    }  # keys of agents
    assert defaults == of_likelihood | of_agents | gone
    earlier = {"task.name": "likelihood", "task.window": "1024"}
    today = earlier | {"task.context_lengths": "[]", "task.last_tokens": "256"}
    assert SchemaRules().find_differing_keys([earlier, today]) == []
    assert SchemaRules().find_differing_keys([earlier, today | {"task.context_lengths": "['64']"}]) == [
        "task.context_lengths"
    ]


def test_native_rope_beyond_its_training_is_the_baseline_of_scalings_that_need_no_such_key() -> None:
    native = {"rope.name": "native", "rope.beyond_trained": "true"}
    scaled = {"rope.name": "yarn", "rope.beyond_trained": "false", "rope.factor": "2.0"}
    assert SchemaRules().find_differing_keys([native, scaled]) == ["rope.name", "rope.factor"]
