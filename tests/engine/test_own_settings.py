"""What comes with a model: penalties of its generation_config.json, and logits of NaN."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from raising import raises
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.notes import Note, note
from runner_base.result import FinishReason
from runner_engine.sessions.base import Completion, Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig

PROMPTS = ("Ann has three apples", "zebra", "to be or not to be")
NEW = 20


def answers_of(
    folder: Path, generation: GenerationConfig, attention: Attention = Attention.auto, **keys: object
) -> tuple[dict[int | str, Completion], dict[str, str], list[Note]]:
    """Complete the prompts; return the completions, the facts and the notes."""
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32, attention=attention)
    engine = open_engine(make_spec(model=model, generation=generation))
    report = engine.load()
    requests = [Request(index, prompt, **keys) for index, prompt in enumerate(PROMPTS)]  # type: ignore[arg-type]
    done = {one.id: one for one in complete_requests(engine, requests)}
    engine.close()
    return done, report.facts, report.notes


@pytest.fixture
def penalized(tiny_llama: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "penalized"
    shutil.copytree(tiny_llama, folder)
    own = {
        "repetition_penalty": 1.6,
        "temperature": 0.4,
        "do_sample": True,
        "min_length": 3,
        "eos_token_id": 2,
    }
    (folder / "generation_config.json").write_text(json.dumps(own))
    return folder


@pytest.mark.sampled(1)
@pytest.mark.parametrize("attention", [Attention.auto, Attention.eager], ids=["stream", "batches"])
def test_a_models_own_penalty_holds_and_greedy_stays_greedy(penalized: Path, attention: Attention) -> None:
    greedy = GenerationConfig(max_new_tokens=NEW)
    done, facts, notes = answers_of(penalized, greedy, attention)
    assert facts["sampling"] == "greedy, repetition_penalty 1.6 (the model's own)"
    file = "the model's generation_config.json"
    assert note("ignored_settings", file=file, ignored={"min_length": 3}) in notes
    model: Any = AutoModelForCausalLM.from_pretrained(penalized)
    tokenizer = AutoTokenizer.from_pretrained(penalized)
    for index, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        expected = model.generate(ids, do_sample=False, max_new_tokens=NEW, min_length=0)[0, ids.shape[1] :]
        assert done[index].answer.token_ids == expected.tolist()


@pytest.mark.thorough
def test_the_generation_group_may_say_otherwise(penalized: Path, tiny_llama: Path) -> None:
    off = GenerationConfig(max_new_tokens=NEW, repetition_penalty=1.0)
    plain = GenerationConfig(max_new_tokens=NEW)
    ours, facts, _ = answers_of(penalized, off)
    theirs, _, _ = answers_of(tiny_llama, plain)
    assert facts["sampling"] == "greedy"
    assert [ours[n].answer.token_ids for n in range(3)] == [theirs[n].answer.token_ids for n in range(3)]
    sampling = GenerationConfig(temperature=0.7, top_k=50, repetition_penalty=1.1)
    own = {"repetition_penalty": 1.3, "top_p": 0.8, "top_k": 20}
    assert (
        sampling.describe_sampling(own)
        == "temperature 0.7, top_p 0.8 (the model's own), top_k 50, repetition_penalty 1.1"
    )


@pytest.fixture(scope="module")
def damaged(saved_family: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose embedding of z is NaN: a prompt with a z has logits of NaN."""
    source, folder = saved_family("llama"), tmp_path_factory.mktemp("damaged")
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("z").input_ids[0]] = float("nan")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("attention", [Attention.auto, Attention.eager], ids=["stream", "batches"])
@pytest.mark.parametrize(
    "generation",
    [
        GenerationConfig(max_new_tokens=NEW),
        GenerationConfig(max_new_tokens=NEW, repetition_penalty=1.2),
        GenerationConfig(max_new_tokens=NEW, temperature=0.8, top_k=5, top_p=0.9),
    ],
    ids=["greedy", "penalty", "sampling"],
)
def test_a_row_whose_logits_are_no_numbers_ends_with_an_error(
    damaged: Path, attention: Attention, generation: GenerationConfig
) -> None:
    done, _, _ = answers_of(damaged, generation, attention, ignore_eos=True)
    reasons = [done[n].answer.finish_reason for n in range(3)]
    assert reasons == [FinishReason.length, FinishReason.error, FinishReason.length]
    assert (
        "the model's logits are NaN. Its weights are damaged or overflow in this dtype. Try another model.dtype"
        in str(done[1].error)
    )
    assert done[1].answer.token_ids == []


@pytest.mark.thorough
@pytest.mark.parametrize("attention", [Attention.auto, Attention.eager], ids=["stream", "batches"])
def test_a_score_that_is_no_number_is_an_error(damaged: Path, attention: Attention) -> None:
    greedy = GenerationConfig(max_new_tokens=NEW)
    done, _, _ = answers_of(damaged, greedy, attention, continuation=" and so on")
    reasons = [done[n].answer.finish_reason for n in range(3)]
    assert reasons == [FinishReason.stop, FinishReason.error, FinishReason.stop]
    assert (
        "the model's logits are NaN. Its weights are damaged or overflow in this dtype. Try another model.dtype"
        in str(done[1].error)
    )


def test_no_new_tokens_are_not_the_usual_number_of_them() -> None:
    with raises(ConfigError, "bad_value", "request.max_new_tokens"):
        Request(0, "Hi", max_new_tokens=0)
