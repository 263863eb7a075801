"""A group's choice is made with GROUP=CHOICE and in no other way, so that the recorded choice is
the one that ran."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from raising import raises

import runner
from runner.config.choices import list_choices
from runner.config.compose import compose_job, create_composer
from runner.config.error_messages import explain_error
from runner.config.groups import GROUPS, collect_key_types
from runner.config.hydra import split_job_config_and_choices, to_runner_config
from runner.config.hydra_versions import apply_hydra_main_settings
from runner.library.load import build_load_config
from runner_base.errors import Code, ConfigError, RunnerError

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

JOB = ("model=stub", "task.limit=1", "tracking=none", "print=none")
NAMED = [group for group in GROUPS if group != "model"]  # the key model.name says which model it is
OPEN: dict[str, Any] = dict.fromkeys(("quantization", "lora", "rope", "generation"))
WAYS = (
    "{group}.name={other}", "+{group}.name={other}", "++{group}.name={other}", "~{group}.name",
    "{group}={{name:{other}}}", "+{group}={{name:{other}}}", "{group}.nmae={other}",
)  # fmt: skip


def job(tmp_path: Path, *overrides: str) -> Any:
    return runner.evaluate(*JOB, f"output_dir={tmp_path}", *overrides)


def refusal(*overrides: str) -> str | None:
    """Return the error for a job of these overrides, None if there is none."""
    try:
        to_runner_config(*compose_job(overrides))
    except (RunnerError, HydraException, OmegaConfBaseException) as error:
        return explain_error(error)
    return None


@pytest.mark.thorough
@pytest.mark.parametrize("group", [*NAMED, "profile"])
def test_the_name_of_a_choice_is_no_key(group: str) -> None:
    choices = list_choices(group)
    # it is a text, which holds no keys
    ways = [way for way in WAYS if group != "profile" or "{{" not in way]
    for number, choice in enumerate(choices):
        other = choices[number - 1]
        for way in ways if number == 0 else [ways[number % len(ways)]]:
            message = refusal(f"{group}={choice}", way.format(group=group, other=other))
            assert message is not None, (choice, way)
            assert re.match(f"{group}.n.*key.* Use {group}=({other}|CHOICE)", message), message


@pytest.mark.thorough
def test_a_model_without_a_place_has_no_name_to_be_given(tmp_path: Path) -> None:
    with raises(ConfigError, "unknown_choice", "model.name"):
        job(tmp_path, "model.name=x")
    assert job(tmp_path).params["model.name"] == "stub"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("body", "code", "key"),
    [
        ("quantization: {name: nf4}", "unknown_choice", "own.yaml"),
        ("rope:\n  name: yarn", "unknown_choice", "own.yaml"),
        (
            "hydra: {sweeper: {params: {quantization.name: 'none,nf4'}}}",
            "unknown_choice",
            "quantization.name",
        ),
        ("profile: low_memory", "no_effect", "profile"),
    ],
)
def test_nor_in_a_study(tmp_path: Path, body: str, code: Code, key: str) -> None:
    (tmp_path / "own.yaml").write_text(f"defaults: [config, _self_]\n{body}\n")
    with raises(ConfigError, code, key):
        runner.grid(*JOB, f"output_dir={tmp_path}", study=tmp_path / "own.yaml")
    assert not [*tmp_path.glob("jobs/*")]


def test_a_schema_put_beside_the_choice_is_refused() -> None:
    with apply_hydra_main_settings():
        beside = create_composer().compose(["+hydra/schema/quantization@quantization=nf4"])
    with raises(ConfigError, "conflict"):
        to_runner_config(*split_job_config_and_choices(beside))


@pytest.mark.thorough
def test_nor_from_python(tmp_path: Path) -> None:
    with raises(ConfigError, "unknown_choice", "quantization.name"):
        runner.grid(*JOB, f"output_dir={tmp_path}", {"quantization.name": ["nf4", "none"]})
    with raises(ConfigError, "unknown_choice", "quantization.name"):
        runner.evaluate({"quantization.name": "nf4", "model": "stub", "output_dir": str(tmp_path)})
    with raises(ConfigError, "unknown_choice", "model.name"):
        build_load_config("stub", OPEN, {"name": "x"})
    assert build_load_config("stub", OPEN | {"rope": {"name": "yarn"}}, {}).rope.name == "yarn", (
        "there it is how to choose with keys"
    )


def test_what_is_recorded_is_the_class_that_was_composed(tmp_path: Path) -> None:
    record = job(
        tmp_path, "rope=yarn", "generation=sampling", "generation.temperature=0.4", "profile=low_memory"
    )
    expected = {
        "quantization": "nf4",
        "lora": "none",
        "rope": "yarn",
        "generation": "sampling",
        "task": "gsm8k",
        "tracking": "none",
    }
    assert {group: record.params[f"{group}.name"] for group in NAMED} == expected
    assert (record.job_id.partition("-")[0], record.task, record.params["profile"]) == (
        "gsm8k",
        "gsm8k",
        "low_memory",
    )
    kept = yaml.safe_load((Path(record.output_dir) / "config.yaml").read_text())
    assert {group: kept[group]["name"] for group in NAMED} == expected
    assert record.name == "gsm8k stub nf4 yarn sampling test temperature=0.4 limit=1"


def test_each_choice_of_each_group_is_a_class_with_its_name() -> None:
    for group in NAMED:
        for name, schema in GROUPS[group].items():
            assert schema.name == name
            assert "name" not in {item.name for item in dataclasses.fields(schema)}
    assert not {f"{group}.name" for group in NAMED} & collect_key_types().keys()
