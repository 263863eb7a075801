"""Prompts of one token in recurrent_gemma, with an adapter and without.

transformers' `generate` takes such a prompt for a step that continues the text before it: its convolution keeps the
last inputs of that text in the module. So the engine's tokens are compared with passes over the whole text, without a cache.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapters import save_adapter, with_adapter
from hybrids import save_hybrid
from opening import make_spec, open_engine
from streams import complete, generated, requests
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig, PeftConfig
from runner_engine.settings.model import LocalModelConfig

PROMPTS = ("x", "Ann has 3 apples.", "y")
NEW_TOKENS = 6


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["base", "beside", "merged"])
def test_its_answer_does_not_depend_on_the_text_before_it(tiny_llama: Path, tmp_path: Path, how: str) -> None:
    base = save_hybrid(tmp_path / "base", "recurrent_gemma", tiny_llama)
    adapter = save_adapter(tmp_path / "adapter", base, target_modules="all-linear")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model, tokenizer = with_adapter(base, adapter), AutoTokenizer.from_pretrained(base)
    of_base = generated(plain, tokenizer, PROMPTS, NEW_TOKENS, use_cache=False)
    of_adapter = generated(model, tokenizer, PROMPTS, NEW_TOKENS, use_cache=False)
    assert all(of_base[at] != of_adapter[at] for at in of_base), "the adapter is seen"
    lora = LoraConfig() if how == "base" else PeftConfig(path=str(adapter), merge=how == "merged")
    engine = open_engine(
        make_spec(
            model=LocalModelConfig(name=str(base), device="cpu", dtype=Dtype.float32),
            generation=GenerationConfig(max_new_tokens=NEW_TOKENS),
            lora=lora,
        )
    )
    try:
        right = of_base if how == "base" else of_adapter
        assert complete(engine, requests(PROMPTS)) == right
        assert complete(engine, requests(PROMPTS)) == right, "after other texts, too"
    finally:
        engine.close()
