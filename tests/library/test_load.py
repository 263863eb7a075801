"""The arguments of load() mean the same as on the command line, and MLflow is not imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises

from runner import load
from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.root import RunnerConfig
from runner.library.load import build_load_config
from runner_base.errors import Code, ConfigError

pytestmark = pytest.mark.slow

GROUPS = ("model", "quantization", "lora", "rope", "generation")


def configured(model: Any = None, **arguments: Any) -> RunnerConfig:
    groups = {group: arguments.pop(group, None) for group in GROUPS[1:]}
    return build_load_config(model, groups, arguments)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        ({}, []),
        ({"model": "stub"}, ["model=stub"]),
        ({"model": "Qwen/Qwen3-8B", "device": "cpu"}, ["model=auto", "model.name=Qwen/Qwen3-8B", "model.device=cpu"]),
        ({"model": "qwen3_8b", "dtype": torch.bfloat16}, ["model=qwen3_8b", "model.dtype=bfloat16"]),
        ({"model": Path("some/where")}, ["model=auto", "model.name=some/where"]),
        ({"model": "local", "name": "x"}, ["model=local", "model.name=x"]),
        ({"quantization": "nf4"}, ["quantization=nf4"]),
        ({"quantization": {"name": "nf4", "double_quant": False}}, ["quantization=nf4", "quantization.double_quant=false"]),
        ({"lora": "embedded_pth"}, ["lora=embedded_pth"]),
        ({"lora": "out/a.pth"}, ["lora=pth", "lora.path=out/a.pth"]),
        ({"lora": Path("out/b")}, ["lora=peft", "lora.path=out/b"]),
        ({"lora": {"path": "out/a.pth", "rank": 8}}, ["lora=pth", "lora.path=out/a.pth", "lora.rank=8"]),
        ({"rope": "rope_2d"}, ["rope=rope_2d"]),
        ({"rope": {"name": "yarn", "factor": 8}}, ["rope=yarn", "rope.factor=8"]),
        ({"generation": "creative"}, ["generation=creative"]),
        ({"generation": {"max_new_tokens": 7}}, ["generation.max_new_tokens=7"]),
        (
            {"device_map": "auto", "max_memory": {0: "3GB", "cpu": "8GB"}, "chat_template_kwargs": {"enable_thinking": False}},
            ["model.device_map=auto", "model.max_memory={0: 3GB, cpu: 8GB}", "model.chat_template_kwargs={enable_thinking: false}"],
        ),
    ],
)  # fmt: skip
def test_arguments_are_what_the_command_line_says(arguments: dict[str, Any], overrides: list[str]) -> None:
    by_command, by_load = to_runner_config(*compose_job(overrides)), configured(**arguments)
    assert [getattr(by_load, group) for group in GROUPS] == [getattr(by_command, group) for group in GROUPS]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("arguments", "code", "key"),
    [
        ({"quantisation": "nf4"}, "unknown_choice", "quantisation"),
        ({"devise": "cpu"}, "unknown_choice", "model.devise"),
        ({"model": "stub", "device": "cpu"}, "unknown_choice", "model.device"),
        ({"quantization": "nf5"}, "unknown_choice", "quantization"),
        ({"quantization": {"name": "nf4", "block": 1}}, "unknown_choice", "quantization.block"),
        ({"dtype": "f32"}, "unknown_choice", "model.dtype"),
        ({"threads": "two"}, "bad_value", "model.threads"),
        ({"model": "auto"}, "missing", ""),
        ({"lora": "peft"}, "missing", ""),
        ({"rope": 2}, "bad_value", "rope"),
        ({"generation": {"max_new_tokens": 0}}, "bad_value", "generation.max_new_tokens"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message(arguments: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        configured(**arguments)


def test_a_gguf_file_needs_no_quantization(tmp_path: Path) -> None:
    (file := tmp_path / "some.gguf").write_bytes(b"GGUF")
    assert configured(file).quantization.name == "gguf"
    in_bytes = configured(file, quantization={"int8_activations": True}).quantization
    assert (in_bytes.name, in_bytes.has_int8_activations) == ("gguf", True)
    assert configured(file, quantization="none").quantization.name == "none", "what is given is not replaced"
    assert configured(tmp_path / "no.gguf").quantization.name == "none"


def test_a_missing_model_is_rejected_before_a_thread_is_started(tmp_path: Path) -> None:
    with raises(ConfigError, "not_found", "model.name"):
        load(tmp_path / "nowhere")


@pytest.mark.thorough
def test_importing_is_cheap_and_load_imports_no_mlflow(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom runner import load\n"
        "assert not {'torch', 'hydra', 'mlflow', 'transformers', 'rich'} & sys.modules.keys(), 'importing is cheap'\n"
        "with load(device='cpu') as model:\n    print(model.generate('Hi', max_new_tokens=3))\n"
        "print([name for name in ('mlflow', 'pandas', 'rich', 'openai') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n[]\n")
    assert done.stderr == ""
