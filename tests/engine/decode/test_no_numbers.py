"""A model with a NaN among its weights ends the rows that need it with an error, however they are
decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_base.result import FinishReason
from runner_engine.decode.static_batches import BY_GENERATE, BatchingMode
from runner_engine.kernels import native
from runner_engine.sessions.base import Completion, Request
from runner_engine.sessions.contract import Engine, complete_requests
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig

NEW = 6
ASKED = [Request(0, "to be"), Request(1, "zoo"), Request(2, "or not")]
# None: in a stream
BATCHINGS = [
    None,
    BatchingMode(),
    BatchingMode(equal_length=True),
    BY_GENERATE,
    replace(BY_GENERATE, alone=True),
]
GREEDY = GenerationConfig(max_new_tokens=NEW)
SAMPLING = GenerationConfig(max_new_tokens=NEW, temperature=0.8, repetition_penalty=1.2)


def damage(source: Path, folder: Path, change: Callable[[Any, int], None]) -> Path:
    """Save a model in which something of the token z is NaN."""
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        change(model, tokenizer("z").input_ids[0])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def damaged(saved_family: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text with a z has logits of NaN."""

    def lose(model: Any, token: int) -> None:
        model.get_input_embeddings().weight[token] = float("nan")

    return damage(saved_family("llama"), tmp_path_factory.mktemp("damaged"), lose)


@pytest.fixture(scope="module")
def headless(saved_family: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every prompt has a logit of NaN: one row of the head is NaN."""

    def lose(model: Any, token: int) -> None:
        model.lm_head.weight[token] = float("nan")

    return damage(saved_family("llama"), tmp_path_factory.mktemp("headless"), lose)


def engine_of(
    folder: Path, batching: BatchingMode | None, generation: GenerationConfig, **groups: Any
) -> Engine:
    attention = Attention.auto if batching is None else Attention.sdpa
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32, attention=attention)
    engine = open_engine(make_spec(model=model, generation=generation, **groups))
    if batching is not None:
        engine.load()
        engine._batching = batching
    return engine


def answers(engine: Engine, asked: list[Request]) -> dict[tuple[Any, int], Completion]:
    return {(done.id, done.choice): done for done in complete_requests(engine, asked)}


def is_nan(done: Completion) -> bool:
    return done.answer.finish_reason is FinishReason.error and (
        "the model's logits are NaN. Its weights are "
        "damaged or overflow in this dtype. Try another model.dtype"
    ) in str(done.error)


@pytest.mark.thorough
@pytest.mark.parametrize("generation", [GREEDY, SAMPLING], ids=lambda one: one.name)
@pytest.mark.parametrize("batching", BATCHINGS, ids=str)
def test_only_the_row_ends_in_an_error_and_all_its_choices(
    damaged: Path, batching: BatchingMode | None, generation: GenerationConfig
) -> None:
    engine = engine_of(damaged, batching, generation)
    done = answers(engine, [replace(one, n=2, ignore_eos=True) for one in ASKED])
    alone = answers(engine, [replace(ASKED[0], n=2, ignore_eos=True)])
    assert sorted(done) == [(number, choice) for number in range(3) for choice in range(2)]
    for (number, choice), one in done.items():
        if number == 1:
            assert is_nan(one), f"choice {choice}: {one}"
            assert one.answer.token_ids == []
        else:
            assert one.error is None
            assert len(one.answer.token_ids) == NEW
    assert alone[0, 1].answer.token_ids == done[0, 1].answer.token_ids
    engine.close()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("batching", BATCHINGS, ids=str)
def test_a_model_that_has_no_number_for_one_token_answers_nothing(
    headless: Path, batching: BatchingMode | None
) -> None:
    for generation in (GREEDY, SAMPLING):
        engine = engine_of(headless, batching, generation)
        asked = [*ASKED, Request("scored", "to be", continuation=" or not")]
        done = answers(engine, asked)
        assert len(done) == len(asked)
        assert all(is_nan(one) for one in done.values()), done
        engine.close()


@pytest.mark.thorough
def test_a_model_without_numbers_is_decoded_at_all_and_each_row_says_why(headless: Path) -> None:
    """The trials of stream and batches compare NaN with NaN: that neither rejects a route nor
    crashes."""
    model = LocalModelConfig(name=str(headless), device="cpu", dtype=Dtype.float32)
    for attention in (Attention.auto, Attention.eager):
        engine = open_engine(make_spec(model=replace(model, attention=attention), generation=GREEDY))
        assert all(is_nan(one) for one in complete_requests(engine, ASKED))
        engine.close()


@pytest.mark.parametrize("generation", [GREEDY, SAMPLING], ids=lambda one: one.name)
def test_a_branch_without_numbers_ends_with_those_that_see_it(
    damaged: Path, saved_family: Callable[..., Path], generation: Any
) -> None:
    """Branches see earlier tokens of the others: after a z the logits of all branches are NaN."""
    asked = [Request(0, "to be", branches=("o", "x", "n"), ignore_eos=True)]
    whole = engine_of(saved_family("llama"), None, generation, rope=Rope2dConfig())
    [expected] = complete_requests(whole, asked)
    engine = engine_of(damaged, None, generation, rope=Rope2dConfig())
    [same] = complete_requests(engine, asked)
    assert same.branches == expected.branches, "no z, no damage"
    [done] = complete_requests(engine, [replace(asked[0], branches=("o", "z", "n"))])
    assert is_nan(done)
    assert done.branches is not None
    assert done.branches[1].token_ids == []
    assert all(one.finish_reason is FinishReason.error and len(one.token_ids) <= 1 for one in done.branches)
    [again] = complete_requests(engine, asked)
    assert again.branches == expected.branches, "nothing of it is left"
    [main] = complete_requests(engine, [replace(asked[0], prompt="zoo")])
    assert is_nan(main)
    assert all(one.finish_reason is FinishReason.error for one in main.branches or [])
    whole.close()
    engine.close()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("by_torch", [False, True], ids=["kernels", "torch"])
def test_what_a_damaged_row_has_left_in_its_slot_reaches_no_other_row(
    damaged: Path, by_torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_torch:
        monkeypatch.setattr(native, "load_kernels", lambda: None)
    asked = [
        Request(n, text, ignore_eos=True) for n, text in enumerate(["a" * 20 + "z" * 20, "to", "or not"])
    ]
    engine = engine_of(damaged, None, GREEDY)
    expected = {key: one.answer.token_ids for key, one in answers(engine, asked[1:]).items()}
    for size in (1, 2, 3):
        done = {done.id: done for done in complete_requests(engine, asked, batch_size=size)}
        assert is_nan(done[0])
        for number in (1, 2):
            assert done[number].error is None, f"{size} rows at once"
            assert done[number].answer.token_ids == expected[number, 0]
    engine.close()
