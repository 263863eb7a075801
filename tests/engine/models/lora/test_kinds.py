"""Adapters of every kind that PEFT has: the engine's tokens and the model's logits are PEFT's own,
in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import exchanged, save_adapter, with_adapter
from hybrids import save_hybrid
from loading import IDS
from mixtures import MIXTURES, mixture
from opening import adapt, load_base, make_spec, open_engine
from raising import raises
from streams import complete, generated, requests
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.local.preload_checks import check_model_and_adapter_files
from runner_engine.models.adapter_lifecycle import detach_adapter
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.spec import ModelSpec

PROMPTS = ("Ann has 3 apples.", "How many pens are left?", "xyz")
NEW_TOKENS = 6
LINEAR = ["q_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
TOKENS = [40, 65, 66, 67, 101, 111]  # some of which are in the prompts
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "usual": ("llama", {"target_modules": LINEAR}),
    "dora": ("llama", {"target_modules": LINEAR, "use_dora": True}),
    "rank-stabilised": ("llama", {"target_modules": LINEAR, "use_rslora": True}),
    "patterns": (
        "llama", {"target_modules": LINEAR, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"down_proj": 32}},
    ),
    "some layers": ("llama", {"target_modules": LINEAR, "layers_to_transform": [1]}),
    "own bias": ("qwen2", {"target_modules": ["q_proj", "k_proj"], "lora_bias": True}),
    "all biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "head whole": ("llama", {"target_modules": LINEAR, "modules_to_save": ["lm_head"]}),
    "norms whole": ("llama", {"target_modules": LINEAR, "modules_to_save": ["norm"]}),
    "embedding whole, tied": ("llama tied", {"target_modules": LINEAR, "modules_to_save": ["embed_tokens"]}),
    "both whole, tied": ("llama tied", {"target_modules": LINEAR, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding, tied": ("llama tied", {"target_modules": ["embed_tokens", "q_proj"]}),
    "head": ("llama", {"target_modules": ["lm_head", "q_proj"]}),
    "head, tied": ("llama tied", {"target_modules": ["lm_head", "q_proj"]}),
    "tokens": ("llama", {"target_modules": LINEAR, "trainable_token_indices": TOKENS}),
    "tokens, tied": ("llama tied", {"target_modules": LINEAR, "trainable_token_indices": TOKENS}),
    "transposed": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "a linear layer's parameter": ("llama", {"target_modules": ["o_proj"], "target_parameters": ["q_proj.weight"]}),
    "experts": ("qwen3_moe", {"target_modules": [], "target_parameters": EXPERTS}),
    "experts and attention": ("mixtral", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
    "experts with biases": ("gpt_oss", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
    "router": ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]}),
    "latents": ("deepseek_v3", {"target_modules": ["kv_b_proj", "q_b_proj"]}),
    "recurrent": ("qwen3_5", {"target_modules": ["in_proj_qkv", "out_proj", "q_proj"]}),
    "gated recurrences": ("recurrent_gemma", {"target_modules": ["linear_x", "linear_out", "q_proj"]}),
    "convolutions": ("lfm2", {"target_modules": ["in_proj", "out_proj", "q_proj"]}),
}  # fmt: skip
SHARING = ("embedding, tied", "head, tied")  # cannot be merged


@pytest.fixture(scope="module")
def base_of(
    saved_family: Callable[..., Path], tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return a function that gives a tiny model of a family, once."""
    known: dict[str, Path] = {}

    def saved(name: str) -> Path:
        family, _, tied = name.partition(" ")
        if family in ("llama", "qwen2"):
            return saved_family(family, tied=bool(tied))
        folder = tmp_path_factory.mktemp(family)
        if family == "gpt2":
            torch.manual_seed(0)
            sizes: dict[str, Any] = {
                "vocab_size": 259,
                "n_positions": 256,
                "n_embd": 64,
                "n_layer": 2,
                "n_head": 2,
            }
            config = GPT2Config(**sizes, initializer_range=0.1, bos_token_id=None, eos_token_id=2)
            GPT2LMHeadModel(config).save_pretrained(folder)
        elif family in MIXTURES:
            mixture(family, vocab_size=259).save_pretrained(folder)
        else:
            return save_hybrid(folder, family, tiny_llama)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
        return folder

    def base(name: str) -> Path:
        if name not in known:
            known[name] = saved(name)
        return known[name]

    return base


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_computed_as_peft_does(
    base_of: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    family, keys = KINDS[kind]
    base = base_of(family)
    adapter = save_adapter(tmp_path / "adapter", base, **keys)
    expected, tokenizer = with_adapter(base, adapter), AutoTokenizer.from_pretrained(base)
    tokens = generated(expected, tokenizer, PROMPTS, NEW_TOKENS)

    def adapted_by(place: Path, **lora: Any) -> ModelSpec:
        model = LocalModelConfig(name=str(base), device="cpu", dtype=Dtype.float32)
        generation = GenerationConfig(max_new_tokens=NEW_TOKENS)
        return make_spec(model=model, generation=generation, lora=PeftConfig(path=str(place), **lora))

    assert answered(adapted_by(adapter)) == tokens
    other = exchanged(adapter, tmp_path / "exchanged")
    own, theirs = logits(expected), logits(with_adapter(base, other))
    assert not torch.allclose(own, theirs, atol=1e-3), "what the adapter does to one layer is seen"

    loaded_base = load_base(adapted_by(adapter))
    before = logits(loaded_base.model)
    adapted = adapt(loaded_base, adapted_by(adapter))
    torch.testing.assert_close(logits(adapted.model), own, atol=1e-5, rtol=0)
    assert detach_adapter(adapted, adapted_by(adapter))
    assert torch.equal(logits(loaded_base.model), before), "the next job on this base has the base"

    merging = adapted_by(adapter, merge=True)
    if kind in SHARING:
        with raises(ConfigError, "unsupported", "lora.merge"):
            check_model_and_adapter_files(resolve_model(merging))
        return
    merged = adapt(load_base(merging), merging)
    torch.testing.assert_close(logits(merged.model), own, atol=1e-3, rtol=1e-4)
    assert adapted.metrics["lora_parameters"] == merged.metrics["lora_parameters"] > 0


def answered(spec: ModelSpec) -> dict[Any, list[int]]:
    engine = open_engine(spec)
    try:
        return complete(engine, requests(PROMPTS))
    finally:
        engine.close()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS).logits
    return found


def test_what_an_adapter_has_besides_is_reported(base_of: Callable[[str], Path], tmp_path: Path) -> None:
    base = base_of("llama")
    keys = {
        "use_dora": True,
        "use_rslora": True,
        "modules_to_save": ["lm_head"],
        "trainable_token_indices": [40, 41],
    }
    adapter = save_adapter(tmp_path / "adapter", base, target_modules=LINEAR, **keys)
    spec = make_spec(
        model=LocalModelConfig(name=str(base), device="cpu", dtype=Dtype.float32),
        lora=PeftConfig(path=str(adapter)),
    )
    facts = adapt(load_base(spec), spec).facts["lora"]
    assert facts.endswith("· DoRA · rank-stabilised · lm_head whole · 2 tokens of the vocabulary")


def test_ranks_of_experts_are_those_of_one(base_of: Callable[[str], Path], tmp_path: Path) -> None:
    base = base_of("qwen3_moe")
    adapter = save_adapter(tmp_path / "adapter", base, target_modules=[], target_parameters=EXPERTS, r=4)
    spec = make_spec(
        model=LocalModelConfig(name=str(base), device="cpu", dtype=Dtype.float32),
        lora=PeftConfig(path=str(adapter)),
    )
    metrics = adapt(load_base(spec), spec).metrics
    peft = with_adapter(base, adapter)
    layers = [module for module in peft.modules() if type(module).__name__ == "ParamWrapper"]
    changes = [layer.get_delta_weight("default") for layer in layers]
    assert metrics["lora_rank"] == 4
    assert metrics["lora_delta_norm"] == pytest.approx(
        float(torch.stack([it.norm() for it in changes]).norm())
    )
