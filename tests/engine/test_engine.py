"""The local engine against transformers' own generate, and against itself in other batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from raising import raises

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.result import FinishReason
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Message, Request
from runner_engine.sessions.contract import Engine
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

PROMPTS = [
    "Ann has 3 apples.",
    "x",
    "Bob buys 12 pens and gives 5 away. How many are left?",
    "Hello there",
    "1+1=",
]


def complete(engine: Engine, requests: list[Request], batch_size: int | None = None) -> dict[Any, Completion]:
    return {done.id: done for done in contract.complete_requests(engine, requests, batch_size)}


def requests(**keys: Any) -> list[Request]:
    return [Request(index, prompt, **keys) for index, prompt in enumerate(PROMPTS)]


@pytest.fixture
def engine(tiny_model: LocalModelConfig) -> Engine:
    return open_engine(make_spec(model=tiny_model))


@pytest.mark.thorough
def test_greedy_equals_plain_generate(engine: Engine, tiny_llama: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    done = complete(engine, requests())
    for index, prompt in enumerate(PROMPTS):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        plain = model.generate(**inputs, max_new_tokens=24, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
        assert done[index].answer.token_ids == plain.tolist()


@pytest.mark.thorough
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_outputs_do_not_depend_on_the_batch(
    tiny_model: LocalModelConfig, batch_size: int, temperature: float
) -> None:
    top_k = 20 if temperature else 0
    generation = GenerationConfig(
        max_new_tokens=24, temperature=temperature, top_k=top_k, repetition_penalty=1.2
    )
    engine = open_engine(make_spec(model=tiny_model, generation=generation))
    whole = complete(engine, requests(), 5)
    parts = complete(engine, list(reversed(requests())), batch_size)
    assert {i: c.answer.token_ids for i, c in whole.items()} == {
        i: c.answer.token_ids for i, c in parts.items()
    }


@pytest.mark.thorough
def test_sampling_follows_the_seed(tiny_model: LocalModelConfig) -> None:
    generation = GenerationConfig(max_new_tokens=24, temperature=1.0)
    texts = [
        {
            i: c.answer.text
            for i, c in complete(
                open_engine(make_spec(model=tiny_model, generation=generation, seed=s)), requests()
            ).items()
        }
        for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.thorough
def test_stop_string_ends_and_is_cut(engine: Engine) -> None:
    free = complete(engine, requests())
    text = free[0].answer.text
    stop = text[5:7]
    done = complete(engine, requests(stop=(stop,)))[0]
    assert done.answer.finish_reason is FinishReason.stop
    assert done.answer.text == text[: text.index(stop)]
    assert len(done.answer.token_ids) < len(free[0].answer.token_ids)


def test_limit_and_ignore_eos(engine: Engine) -> None:
    done = complete(engine, requests(max_new_tokens=7, ignore_eos=True))
    assert [len(done[i].answer.token_ids) for i in range(5)] == [7] * 5
    assert {c.answer.finish_reason for c in done.values()} == {FinishReason.length}


@pytest.mark.thorough
def test_eos_ends_a_row(tiny_model: LocalModelConfig, tiny_llama: Path) -> None:
    engine = open_engine(make_spec(model=tiny_model))
    free = complete(engine, requests(ignore_eos=True))
    engine.load()
    loaded = engine.loaded  # make a token that does come the end token
    at = next(i for i in range(1, 24) if free[0].answer.token_ids[i] not in free[0].answer.token_ids[:i])
    loaded.model.generation_config.eos_token_id = [free[0].answer.token_ids[at]]
    done = complete(engine, requests())[0]
    assert done.answer.finish_reason is FinishReason.stop
    assert done.answer.token_ids == free[0].answer.token_ids[: at + 1]
    assert len(done.answer.text) <= len(free[0].answer.text)


@pytest.mark.thorough
def test_prompts_as_token_ids_and_stats(engine: Engine) -> None:
    done = complete(engine, [Request(0, (5, 6, 7), ignore_eos=True), Request(1, (8, 9), ignore_eos=True)])
    assert [done[0].prompt_tokens, done[1].prompt_tokens] == [3, 2]
    assert engine.stats.prefill_tokens == 5
    assert engine.stats.decode_tokens == 2 * 23
    before = dataclasses.replace(engine.stats)
    complete(engine, [Request(0, (5, 6, 7), ignore_eos=True, max_new_tokens=4)])
    step = engine.stats - before
    assert (step.prefill_tokens, step.decode_tokens, step.load_s) == (3, 3, 0)
    assert step.prefill_s > 0
    assert step.decode_tok_per_s > 0


@pytest.mark.thorough
def test_chat_goes_through_the_template(engine: Engine) -> None:
    chat = (Message("system", "Be brief."), Message("user", "x"))
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    done = complete(engine, [Request(0, chat), Request(1, text)])
    assert done[0].answer.token_ids == done[1].answer.token_ids
    assert done[0].prompt_sha256 == done[1].prompt_sha256


def test_no_chat_template_is_an_error(tiny_model: LocalModelConfig) -> None:
    engine = open_engine(make_spec(model=tiny_model))
    engine.load()
    engine.loaded.tokenizer.chat_template = None
    with raises(ConfigError, "unsupported"):
        complete(engine, [Request(0, (Message("user", "x"),))])


def test_prompt_longer_than_the_model_is_an_error_of_that_sample(engine: Engine) -> None:
    done = complete(engine, [Request(0, tuple([5] * 600)), Request(1, (5, 6)), Request(2, tuple([5] * 505))])
    assert done[0].answer.finish_reason is FinishReason.error
    assert "600 tokens" in str(done[0].error)
    assert done[1].answer.finish_reason is not FinishReason.error
    assert len(done[2].answer.token_ids) <= 7  # room is what is left of 512


@pytest.mark.thorough
def test_jobs_on_one_base_cache_share_a_base(tiny_model: LocalModelConfig) -> None:
    bases = BaseModelCache()
    other = GenerationConfig(max_new_tokens=3)
    specs = [make_spec(model=tiny_model), make_spec(model=tiny_model, generation=other, seed=5)]
    specs.append(make_spec(model=dataclasses.replace(tiny_model, dtype=Dtype.bfloat16)))
    loads = []
    for spec in specs:
        engine = open_engine(spec, bases)
        loads.append(engine.load().metrics["base_loads"])
        engine.close()
    assert loads == [1, 0, 1]
    alone = open_engine(specs[2])
    assert alone.load().metrics["base_loads"] == 1, "without a cache of bases each engine has its own"
