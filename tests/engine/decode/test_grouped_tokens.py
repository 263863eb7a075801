"""Mixtures whose experts are multiplied in one call of C: the tokens of `generate`, one prompt at a
time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mixtures import mixture
from opening import make_spec, open_engine
from transformers import AutoTokenizer

from runner_base.dtypes import Dtype
from runner_engine.decode.fast_layers import FastLayers
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.model import LocalModelConfig

PROMPTS = ["Ann has 3 apples.", "x", "Bob buys 12 pens and gives 5 away. How many are left?", "1+1="]
NEW = 24


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_tokens_are_those_of_generate(tiny_llama: Path, tmp_path: Path, family: str) -> None:
    """One row at a time, and several at once; the control is an engine with two experts
    exchanged."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = mixture(family, vocab_size=max(256, len(tokenizer)))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    expected = {}
    for number, prompt in enumerate(PROMPTS):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        expected[number] = tokens[0, inputs["input_ids"].shape[1] :].tolist()
    settings = LocalModelConfig(name=str(tmp_path / "model"), device="cpu", dtype=Dtype.float32)
    engine: Any = open_engine(make_spec(model=settings))
    requests = [
        Request(number, prompt, max_new_tokens=NEW, ignore_eos=True) for number, prompt in enumerate(PROMPTS)
    ]

    def tokens_of(rows: int) -> dict[Any, list[int]]:
        return {
            done.id: list(done.answer.token_ids)
            for done in contract.complete_requests(engine, requests, rows)
        }

    assert tokens_of(1) == expected
    assert tokens_of(4) == expected
    fast = engine._fast_layers
    assert isinstance(fast, FastLayers)
    assert fast.experts.layers
    for layer in fast.experts.layers.values():
        first, second = layer.matrices[2], layer.matrices[5]
        first.weight, second.weight = second.weight, first.weight
    assert tokens_of(4) != expected
    engine.close()
