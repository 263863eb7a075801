"""The rules for other tools' settings name the runner's keys: they are what the schema says of them."""

from __future__ import annotations

import pytest
from options_here import absent

from runner.recorded_runs.key_rules import SchemaRules
from runner_compare.key_rules import KeyRules


@pytest.mark.parametrize("config", [{}, {"task.name": "gsm8k"}, {"task.name": "a task of another tool"}])
def test_the_same_keys_count(config: dict[str, str]) -> None:
    plain, of_schema = KeyRules().inert_keys(config), SchemaRules().inert_keys(config)
    assert plain >= of_schema
    assert plain == of_schema or absent(), "the others are keys of an option"


def test_the_same_values_mean_the_same() -> None:
    plain, of_schema = KeyRules(), SchemaRules()
    assert plain.written_alike == of_schema.written_alike
    assert plain.defaults == of_schema.defaults
    assert [*plain.order] == [key for key in of_schema.order if key not in plain.inert_keys({})]
