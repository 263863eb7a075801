"""Adapters that are not computed here are refused before anything is loaded, by name and with what
to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opening import make_spec
from raising import raises

from runner_base import processor
from runner_base.errors import ConfigError
from runner_engine.checkpoints import adapter_support
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.quantization import CHOICES
from runner_engine.settings.lora import MergeOrder, PeftConfig
from runner_engine.settings.model import LocalModelConfig


@pytest.fixture
def check(tiny_llama: Path, tmp_path: Path) -> Callable[..., None]:
    """Return a function that checks an adapter with these settings, beside a quantization."""

    def checked(settings: dict[str, Any], quantization: str = "none", **lora: Any) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | settings))
        model = LocalModelConfig(name=str(tiny_llama), device="cpu")
        choice = CHOICES[quantization]()
        adapter = PeftConfig(path=str(tmp_path), **lora)
        adapter_support.check_adapter_support(
            resolve_model(make_spec(model=model, quantization=choice, lora=adapter))
        )

    return checked


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "IA3"},
        {"alora_invocation_tokens": [1]},
        {"layer_replication": [[0, 1], [0, 1]]},
        *({key: {"a": 1}} for key in ("arrow_config", "kasa_config", "use_qalora", "velora_config")),
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_kinds_name_the_key_and_the_fix(
    check: Callable[..., None], settings: dict[str, Any], tmp_path: Path
) -> None:
    with raises(ConfigError, "unsupported", f"lora.path={tmp_path}") as raised:
        check(settings)
    key = next(iter(settings))
    assert re.search(rf"\b{key}\b.* Fix: ", raised.value.reason)


def test_the_usual_kinds_pass(check: Callable[..., None]) -> None:
    check({})
    check(
        {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 8}, "modules_to_save": ["lm_head"]}
    )
    check({"layer_replication": None, "use_qalora": False, "megatron_core": "megatron.core"})
    check({}, "nf4")


def test_dora_beside_codes_needs_the_norms_of_weights(
    check: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dora = {"use_dora": True}
    check(dora, "torchao_int8")
    for name in ("int8", "hqq", "torchao_intx"):
        with raises(ConfigError, "conflict", f"lora.path={tmp_path}") as raised:
            check(dora, name)
        assert f"quantization={name}." in raised.value.reason
        check(dora, name, merge=True, merge_order=MergeOrder.merge_first)
    monkeypatch.setattr(processor, "has_bfloat16_matmul", lambda: True)
    with raises(ConfigError, "conflict", f"lora.path={tmp_path}") as raised:
        check(dora, "nf4")
    assert "use_dora" in raised.value.reason
    monkeypatch.setattr(processor, "has_bfloat16_matmul", lambda: False)
    check(dora, "nf4")


def test_a_parameter_that_is_held_as_codes(check: Callable[..., None], tmp_path: Path) -> None:
    check({"target_parameters": ["q_proj.weight"]})
    # adapter_header.py knows whether that works
    check({"target_parameters": ["mlp.experts.gate_up_proj"]}, "nf4")
    with raises(ConfigError, "conflict", f"lora.path={tmp_path}") as raised:
        check({"target_parameters": ["q_proj.weight"]}, "nf4")
    assert "target_parameters=q_proj.weight" in raised.value.reason
