"""Fields of a downloaded adapter_config.json with other types than PEFT expects: one message
each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner_base.errors import DataError
from runner_base.texts import MAX_DEPTH, parse_json_object
from runner_engine.embedded import MODEL_DIR

FIELDS: dict[str, Any] = {
    "base_model_name_or_path": [1], "bias": 5, "alpha_pattern": 1.5, "rank_pattern": {"q_proj": "x"},
    "layer_replication": True, "exclude_modules": "(", "modules_to_save": [None], "lora_alpha": 10**400,
    "lora_dropout": "x", "init_lora_weights": {"a": 1}, "megatron_config": {"a": 1}, "eva_config": 5,
    "peft_type": {"a": 1}, "target_modules": 5, "layers_to_transform": "x",
}  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_type_is_one_message(
    runner: Callable[..., Any], tmp_path: Path, field: str
) -> None:
    shutil.copytree(MODEL_DIR.with_name("lora_peft"), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: FIELDS[field]}))
    words = (
        "model=embedded",
        "lora=peft",
        "lora.path=./adapter",
        "task.limit=1",
        "tracking=none",
        "print=none",
    )
    done = runner(*words, "generation.max_new_tokens=2")
    assert "Traceback" not in done.err
    if field == "base_model_name_or_path":  # it only names the base
        assert done.code == 0, done.err
        return
    assert done.code == 2, done.err
    [error] = [line for line in done.err.splitlines() if line.startswith("error")]
    assert "lora.path=./adapter" in error


def test_objects_nested_too_deeply_are_refused_below_the_parsers_own_limit() -> None:
    deep = b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1)
    with raises(DataError, "damaged", "config.json"):
        parse_json_object(deep, "config.json")
    assert parse_json_object(b'{"a": {"b": [1]}}', "config.json") == {"a": {"b": [1]}}
