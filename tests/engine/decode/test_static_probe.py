"""Models that the stream cannot serve are decoded in batches with generate's answers, or rejected
before the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from raising import raises
from streams import complete, requests
from transformers import AutoModelForCausalLM

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("family", "way", "why"),
    [
        ("qwen3_5_text", "stream", ""),
        ("kimi_linear", "stream", ""),
        ("lfm2", "stream", ""),
        ("jamba", "stream", ""),
        ("falcon_h1", "stream", ""),
        ("mamba2", "stream", ""),  # no layer attends
        ("zamba2", "stream", ""),  # layers share their attention
        # the layers of this cache cannot select rows
        ("zaya", "static", "LinearAttentionAndFullAttentionLayer"),
        ("rwkv", "generate, alone", "does not write to the given KV cache"),
        ("openai-gpt", "generate", "does not write to the given KV cache"),
        ("minimax", "generate", "MiniMax uses cache of its own"),
        ("cpmant", "generate", "a cache of its own"),
        ("doge", "static", "biases to the attention scores"),
        ("deepseek_v32", "static, equal lengths", "indexed_attention"),
        ("mixtral", "stream", ""),
    ],
)
def test_each_family_answers_as_generate_by_its_way(family: str, way: str, why: str, tmp_path: Path) -> None:
    """Rows of several lengths and limits at once: half of a batch ends while the others go on,
    beyond chunk and window."""
    result = families.look(family, tmp_path)
    assert result.way == way, result
    assert why in result.why
    assert bool(result.why) is bool(why)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize("family", ["zaya", "rwkv", "doge"])
def test_the_stream_is_refused_by_structure_whatever_the_dtype_tolerates(
    family: str, dtype: Dtype, tmp_path: Path
) -> None:
    families.build(family, tmp_path)
    engine = open_engine(make_spec(model=LocalModelConfig(name=str(tmp_path), device="cpu", dtype=dtype)))
    assert engine.load().facts["decoding"] != "continuous batching"
    engine.close()


def test_a_model_that_generate_cannot_drive_is_refused_by_name(tmp_path: Path) -> None:
    families.build("xmod", tmp_path)
    engine = open_engine(
        make_spec(model=LocalModelConfig(name=str(tmp_path), device="cpu", dtype=Dtype.float32))
    )
    with raises(ConfigError, "unsupported", f"model.name={tmp_path}"):
        engine.load()
    with raises(ConfigError, "unsupported", f"model.name={tmp_path}"):
        complete(engine, requests(["x"]))


def test_the_refusal_is_one_message_and_exit_code_2(runner: Callable[..., Any], tmp_path: Path) -> None:
    families.build("xmod", tmp_path / "model")
    asked = ("task=generate", "task.prompt=x", "task.format=raw")
    done = runner("model=auto", f"model.name={tmp_path / 'model'}", *asked, "model.device=cpu")
    assert done.code == 2, done.err
    assert f"model.name={tmp_path / 'model'}: XmodForCausalLM " in done.err
    assert "Traceback" not in done.err


def test_generate_goes_by_our_settings_and_not_by_the_models(tmp_path: Path) -> None:
    """Only the generation group decides: the model's own settings for generate are not applied in
    addition."""
    families.build("openai-gpt", tmp_path)
    plain = open_engine(
        make_spec(model=LocalModelConfig(name=str(tmp_path), device="cpu", dtype=Dtype.float32))
    )
    expected = complete(plain, requests(["Ann has 3", "x"], ignore_eos=True))
    plain.close()
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model.generation_config.suppress_tokens = [token for ids in expected.values() for token in ids]
    model.save_pretrained(tmp_path)
    engine = open_engine(
        make_spec(model=LocalModelConfig(name=str(tmp_path), device="cpu", dtype=Dtype.float32))
    )
    assert complete(engine, requests(["Ann has 3", "x"], ignore_eos=True)) == expected
    engine.close()
