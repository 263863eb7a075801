"""Old names of config keys are accepted with a warning, and change no job id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from options_here import absent
from raising import raises

from runner.config.compose import compose_job
from runner.config.groups import GROUPS
from runner.config.hydra import to_runner_config
from runner.config.renamed_keys import rename_old_keys_in_overrides, warn_of_old_key
from runner.recorded_runs.key_rules import SchemaRules
from runner.records.flat_config import flatten_config
from runner.records.jobs import create_job_with_hashed_id
from runner_base import ConfigError
from runner_base.renamed_keys import RENAMED_KEYS, get_current_key_name, update_renamed_param_keys
from runner_base.result import Record, Result, Status

LATER = "The old key will be removed in a later version."


@pytest.fixture(autouse=True)
def no_earlier_warnings() -> None:
    warn_of_old_key.cache_clear()


def _iterate_fields(schema: Any) -> Iterator[Any]:
    for item in fields(schema):
        yield item
        if is_dataclass(inner := getattr(schema, item.name, None)):
            yield from _iterate_fields(inner)


def test_the_table_has_the_old_names_of_the_fields() -> None:
    of_fields: dict[str, dict[str, str]] = {group: {} for group in RENAMED_KEYS}
    now: dict[str, set[str]] = {group: set() for group in RENAMED_KEYS}
    for group in RENAMED_KEYS:
        for schema in GROUPS[group].values():
            for item in _iterate_fields(schema):
                now[group].add(item.name)
                if (old := item.metadata.get("renamed_from")) is not None:
                    of_fields[group][old] = item.name
    listed = {group: dict(names) for group, names in RENAMED_KEYS.items()}
    if absent():  # the table also has the keys of options that are not here
        listed = {group: dict(names.items() & of_fields[group].items()) for group, names in listed.items()}
    assert of_fields == listed
    assert not [old for group, names in RENAMED_KEYS.items() for old in names if old in now[group]]


# ids of version 0.1.0 before the keys were renamed, for a job without inputs
IDS = [
    ("task=gsm8k task.repeat=2 task.gold=letter", "gsm8k-23c8556ef1aa", "ac0d10466aae"),
    ("task=likelihood task.contexts=[64,128]", "likelihood-c0f6171a5437", "31d49520e43f"),
    ("task=recall task.texts=3 task.repeat=1", "recall-a91d35fa6809", "a91d35fa6809"),
    ("task=tools task.fill=[1k] task.form=hermes task.offer=system", "tools-bf066f44b723", "6a826e37b07d"),
    ("task=sweep task.arrival_s=5", "sweep-3a90c91448de", "3a90c91448de"),
    (
        "model=local model.name=nowhere.gguf quantization=gguf quantization.unpacked=true",
        "gsm8k-3bcb9bcb64d2",
        "d4fead694361",
    ),
    (
        "model=local model.name=nowhere quantization=gptq quantization.int8_rows=true",
        "gsm8k-899243c39282",
        "7d4e7ae31cda",
    ),
    (
        "model=local model.name=nowhere quantization=torchao_intx "
        "quantization.overrides={lm_head:{name:torchao_intx,int8_rows:true}}",
        "gsm8k-3e831e4c06d3",
        "4719ba853293",
    ),
]
IF_REMOTE = [
    (
        "model=api model.name=m model.base_url=http://localhost:9/v1 model.thinking_budget=vllm "
        "generation.thinking_tokens=10",
        "gsm8k-5152d4a5e361",
        "b3a1aa4749a0",
    )
]
IDS += [] if "remote" in absent() else IF_REMOTE


@pytest.mark.parametrize(("command", "job_id", "sibling_key"), IDS, ids=[it[1] for it in IDS])
def test_old_and_new_names_give_the_ids_of_before(command: str, job_id: str, sibling_key: str) -> None:
    old = command.split()
    new = rename_old_keys_in_overrides(old, is_silent=True)
    assert new != old
    for overrides in (old, new):
        config = to_runner_config(*compose_job(overrides))
        ignored = frozenset({"task.limit", "task.context_lengths", "task.tool_call_format"})
        job = create_job_with_hashed_id(
            config, 1, {}, False, ignored if "task=tools" in old else frozenset({"task.limit"})
        )
        assert (job.job_id, job.sibling_key) == (job_id, sibling_key)


def test_an_override_with_an_old_name_is_noted_once(runner: Callable[..., Any]) -> None:
    done = runner("task.repeat=1", "--cfg", "job")
    assert done.code == 0
    assert "  repeat_index: 1\n" in done.out
    assert done.err.count(f"warning: task.repeat is now task.repeat_index. {LATER}") == 1
    swept = runner("-m", "model=stub", "task.limit=2", "task.repeat=0,1", "plan=true", "print=json")
    assert swept.code == 0
    assert "task.repeat=" not in swept.out


@pytest.mark.parametrize(
    ("given", "renamed"),
    [
        ("+task.without=a.txt", "+task.unscored=a.txt"),
        ("~task.repeat", "~task.repeat_index"),
        ("model.teacher.connect_s=3", "model.teacher.connect_timeout_s=3"),
        (
            "quantization.overrides.lm_head.int8_rows=true",
            "quantization.overrides.lm_head.int8_activations=true",
        ),
        ("quantization.overrides={a:{int8_rows:true}}", "quantization.overrides={a:{int8_activations:true}}"),
        ("hydra.sweeper.params.task.repeat='0,1'", "hydra.sweeper.params.task.repeat_index='0,1'"),
        ("hydra.sweeper.exclude=[{task.repeat:1}]", "hydra.sweeper.exclude=[{task.repeat_index:1}]"),
        ("seed=${task.repeat}", "seed=${task.repeat_index}"),
        ("task.system=task.repeat", "task.system=task.repeat"),
        ("task.repeats=3", "task.repeats=3"),
    ],
)
def test_where_a_name_stands(given: str, renamed: str) -> None:
    assert rename_old_keys_in_overrides([given]) == [renamed]


def test_both_names_together_are_refused(runner: Callable[..., Any]) -> None:
    for overrides in (["task.without=a", "task.unscored=b"], ["task.unscored=b", "task.without=a"]):
        with raises(ConfigError, "conflict", "task.without"):
            rename_old_keys_in_overrides(overrides)
    done = runner("task.without=a", "task.unscored=b")
    assert (done.code, done.out) == (2, "")
    assert "error: task.without: task.unscored sets the same key. Set only task.unscored" in done.err


STUDY = """
defaults: [config, _self_]
model: {name: nowhere.gguf}
task: {limit: 3, repeat: 1, contexts: [64]}
hydra:
  sweeper:
    params: {task.repeat: "0,1", quantization.unpacked: "true,false"}
    zip: [{seed: "1,2", task.repeat: "0,2"}]
"""


def test_a_study_and_a_data_set_may_have_old_names(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("model: {name: nowhere.gguf}\n", ""))
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("data: ./mine.jsonl\ngold: letter\ngold_after: 'So'\n")
    (tmp_path / "dataset" / "mine.jsonl").write_text('{"question": "1+1?", "answer": "So B"}\n')
    composed, _ = compose_job(["task=likelihood", "task.data=mine"], "study", str(tmp_path))
    task = composed.task
    assert (task.repeat_index, task.context_lengths) == (1, ["64"])
    assert (task.answer_type.value, task.answer_marker) == ("letter", "So")
    assert f"warning: task.gold is now task.answer_type. {LATER}" in capsys.readouterr().err
    (tmp_path / "twice.yaml").write_text("defaults: [config, _self_]\ntask: {repeat: 1, repeat_index: 2}\n")
    with raises(ConfigError, "conflict", "task.repeat"):
        compose_job([], "twice", str(tmp_path))


def test_a_record_with_old_names_is_compared_with_a_new_one() -> None:
    config = to_runner_config(*compose_job(["task=likelihood", "task.context_lengths=[64]", "model=stub"]))
    params = dict(flatten_config(config))
    old_names = {
        f"{group}.{new}": f"{group}.{old}"
        for group, names in RENAMED_KEYS.items()
        for old, new in names.items()
    }
    old_names["task.context_lengths"] = "task.contexts"
    old = {old_names.get(key, key): value for key, value in params.items()}
    assert old.keys() != params.keys()
    record = Record("a", Status.FINISHED, "", Result({}), task="likelihood", params=old)
    read = Record.from_json(record.to_json())
    assert read.params == params == update_renamed_param_keys(old)
    assert SchemaRules().find_differing_keys([read.params, params]) == []
    changed = params | {"task.context_lengths": "['128']"}
    assert SchemaRules().find_differing_keys([read.params, changed]) == ["task.context_lengths"]


def test_other_keys_keep_their_names() -> None:
    for key in ("task.repeats", "task.only", "model.name", "generation.texts", "task.a.repeat", "repeat"):
        assert get_current_key_name(key) == key
