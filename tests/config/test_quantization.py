"""The menu of quantizations, keys of overrides with their types, and a plan of a mix."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from raising import raises

from runner.config.choices import CONF
from runner.config.groups import GROUPS
from runner.config.root import RunnerConfig
from runner_base.errors import Code, ConfigError
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import GENERAL_KEYS, CheckpointSource, QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.quantization.capabilities import can_quantize_layers
from runner_engine.quantization.torchao import Int8DynamicConfig
from runner_engine.settings.model import LocalConfig

Make = Callable[..., RunnerConfig]
Saved = Callable[..., Path]
MLP = "quantization.overrides.mlp"


def test_every_choice_is_in_the_menu_and_no_other() -> None:
    assert {file.stem for file in (CONF / "quantization").glob("*.yaml")} == set(CHOICES)
    assert GROUPS["quantization"] == CHOICES
    for name, choice in CHOICES.items():
        text = (CONF / "quantization" / f"{name}.yaml").read_text()
        assert f"/hydra/schema/quantization/{name}@_here_" in text
        keys = {item.name for item in fields(choice)} - {"name", *GENERAL_KEYS}
        assert set(yaml.safe_load(text)) - {"defaults", *GENERAL_KEYS} == keys
        if can_quantize_layers(choice):
            assert set(yaml.safe_load(text)) >= {*GENERAL_KEYS}, "the menu shows that it can be mixed"
        assert choice().name == name


@pytest.mark.parametrize(
    ("quantization", "code", "key", "message"),
    [
        (Nf4Config(overrides={"mlp": "int9"}), "unknown_choice", MLP, r"=int9: .*Did you mean int8"),
        (Nf4Config(overrides={"mlp": "gptq"}), "unknown_choice", MLP, r"=gptq: no choice for single layers"),
        (Nf4Config(overrides={"mlp": None}), "missing", MLP, r"=None: "),
        (Nf4Config(overrides={"mlp": {"double_quant": False}}), "missing", MLP, r"={'double_quant': False}: "),
        (Nf4Config(overrides={"mlp": {"name": "nf4", "bits": 3}}), "unknown_choice", MLP, r"nf4 has no key bits\..* double_quant, comp"),
        (Nf4Config(overrides={"mlp": {"name": "nf4", "skip": []}}), "unknown_choice", MLP, r"nf4 has no key skip\."),
        (Nf4Config(overrides={"mlp": {"name": "nf4", "double_quant": "perhaps"}}), "bad_value", MLP, r"'perhaps' is not a valid bool"),
        (Nf4Config(overrides={"mlp": {"name": "int8", "threshold": -1}}), "bad_value", "quantization.threshold", r"=-1"),
        (Nf4Config(skip=[" "]), "bad_value", "quantization.skip", "empty"),
        (QuantizationConfig(skip=["mlp"]), "no_effect", "", r"quantization\.skip .* quantization=none"),
        *(
            (kind(skip=["mlp"]), "conflict", "quantization.skip", rf"quantization={name} ")
            for name, kind in CHOICES.items()
            if kind.source is not CheckpointSource.plain
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(
    make_config: Make, quantization: Any, code: Code, key: str, message: str
) -> None:
    with raises(ConfigError, code, key) as refused:
        make_config(model=LocalConfig(name="nowhere"), quantization=quantization)
    assert re.search(message, str(refused.value))


@pytest.mark.parametrize("other", [Int8DynamicConfig, Int8Config])
def test_a_plan_of_a_mix_imports_no_torch(
    saved_family: Saved, tmp_path: Path, other: type[QuantizationConfig]
) -> None:
    program = f"""
import sys
from runner.__main__ import entry
sys.argv = ["runner", "model=local", "model.name={saved_family()}", "quantization=nf4", "plan=quick", "tracking=none",
    "quantization.overrides={{down_proj: {{name: {other.name}}}}}", "quantization.skip=[layers.0]"]
try:
    entry()
finally:
    assert not {{"torch", "transformers"}} & {{*sys.modules}}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "to do" in done.stdout
