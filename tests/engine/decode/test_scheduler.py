"""The stream's answers are those of transformers' own generate, whatever other requests are in the
batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from families import save_peft, save_pth
from families import settings as family_settings
from listening import complete_first
from opening import adapt, load_base, make_spec, open_engine
from streams import AGENTS, NEW_TOKENS, PROMPTS, SYSTEM, complete, generated, requests, tokens_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_base.result import Answer, FinishReason
from runner_engine.kv_cache import prefix_tree
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Request
from runner_engine.sessions.contract import Engine
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig, PthConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig
from runner_engine.spec import ModelSpec

Saved = Callable[..., Path]
GREEDY = GenerationConfig(max_new_tokens=NEW_TOKENS)


def local(folder: Path, **keys: Any) -> LocalModelConfig:
    return LocalModelConfig(**({"name": str(folder), "device": "cpu", "dtype": Dtype.float32} | keys))


def of_family(saved_family: Saved, family: str = "llama", **groups: Any) -> ModelSpec:
    folder = saved_family(family, max_position_embeddings=512)
    return make_spec(**({"model": local(folder), "generation": GREEDY} | groups))


def in_every_way(spec: ModelSpec, expected: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Ask for the prompts in all orders, sizes and pieces; return the engine that had the whole
    batch."""
    engine = open_engine(spec)
    assert complete(engine, requests()) == expected
    assert engine.stats.notes == [], "the stream served, not its fallback"
    assert engine.stats.shared_tokens > 8 * len(SYSTEM)
    assert engine.stats.prefill_tokens + engine.stats.shared_tokens >= sum(len(prompt) for prompt in PROMPTS)
    assert complete(engine, requests(), 1) == expected
    assert complete(engine, requests(), 3) == expected
    shuffled = requests()
    random.Random(1).shuffle(shuffled)
    assert complete(engine, shuffled, 5) == expected

    some = tokens_of(complete_first(engine, shuffled, 5, 4))
    assert len(some) < len(shuffled)
    engine.close()
    engine = open_engine(spec)
    rest = [request for request in requests() if request.id not in some]
    assert some | complete(engine, rest) == expected, "resumed half way"

    shared = engine.stats.shared_tokens
    with monkeypatch.context() as patch:
        patch.setattr(prefix_tree, "MIN_TOKENS", 10**9)
        assert complete(engine, requests()) == expected
        assert engine.stats.shared_tokens == shared, "nothing was shared this time"
    return engine


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_every_family_answers_as_generate(
    saved_family: Saved, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = of_family(saved_family, family)
    folder = spec.model.name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    expected = generated(model, AutoTokenizer.from_pretrained(folder))
    assert len({tuple(tokens) for tokens in expected.values()}) >= len(PROMPTS) - 2, (
        "answers differ with the prompt"
    )
    in_every_way(spec, expected, monkeypatch).close()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("what", ["rope_2d", "peft", "pth", "peft merged", "rope_2d and pth"])
def test_adapters_and_rope_2d_answer_as_generate(
    saved_family: Saved, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of_family(saved_family)
    plain = generated(*_loaded(config))
    if "rope_2d" in what:
        config = replace(config, rope=Rope2dConfig())
    if "peft" in what:
        adapter = save_peft(tmp_path / "adapter", Path(config.model.name))
        config = replace(config, lora=PeftConfig(path=str(adapter), merge="merged" in what))
    if "pth" in what:
        adapter = save_pth(tmp_path / "adapter.pth", family_settings("llama"))
        config = replace(config, lora=PthConfig(path=str(adapter)))
    expected = generated(*_loaded(config))
    assert expected != plain, "it is on"
    in_every_way(config, expected, monkeypatch).close()


def _loaded(spec: ModelSpec) -> tuple[Any, Any]:
    loaded = adapt(load_base(spec), spec)
    return loaded.model, loaded.tokenizer


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("quantization", [Nf4Config(), Int8Config()], ids=lambda config: config.name)
def test_quantized_models_agree_with_generate_for_most_tokens(saved_family: Saved, quantization: Any) -> None:
    """Their kernels round differently in other batch sizes: nine in ten tokens before the first
    difference suffice."""
    config = of_family(saved_family, quantization=quantization)
    model, tokenizer = _loaded(config)
    expected = generated(model, tokenizer, clear=0)
    engine = open_engine(config)
    for batch_size in (64, 5, 1):
        done = complete(engine, requests(), batch_size)
        same = sum(_equal_tokens(done[index], tokens) for index, tokens in expected.items())
        assert same >= 0.9 * sum(map(len, expected.values())), f"batch {batch_size}: {same} tokens"
    assert engine.stats.notes == []
    engine.close()


def _equal_tokens(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@pytest.mark.thorough
def test_each_request_ends_in_its_own_way(saved_family: Saved) -> None:
    """Stop texts, limits and ignore_eos differ from request to request in one batch."""
    spec = of_family(saved_family)
    model, tokenizer = _loaded(spec)
    eos = next(iter(generated(model, tokenizer, PROMPTS[:1]).values()))[7]  # a token that does come
    model.generation_config.eos_token_id = eos
    free = generated(model, tokenizer, eos_token_id=None, max_length=None)
    texts = {index: tokenizer.decode(tokens) for index, tokens in free.items()}
    asked: list[Request] = []
    for index, prompt in enumerate(PROMPTS):
        stop = (texts[index][6:8], "never said") if index % 3 == 0 else ()
        asked.append(
            Request(index, prompt, stop, [None, 3, 11][index % 3 if index % 2 else 0], ignore_eos=index == 4)
        )
    engine = open_engine(spec)
    engine.load()
    engine.loaded.model.generation_config.eos_token_id = eos
    for batch_size in (64, 1, 4):
        done = {
            completion.id: completion for completion in contract.complete_requests(engine, asked, batch_size)
        }
        for request in asked:
            tokens, text, reason = _expected(request, free[int(request.id)], eos, tokenizer)
            answer = done[request.id].answer
            assert answer == Answer(text, tokens, reason), request
    reasons = {completion.answer.finish_reason for completion in done.values()}
    assert reasons == {FinishReason.stop, FinishReason.length}
    engine.close()


def _expected(
    request: Request, free: list[int], eos: int, tokenizer: Any
) -> tuple[list[int], str, FinishReason]:
    """Cut freely generated tokens as the contract says, one token after another."""
    limit = request.max_new_tokens or NEW_TOKENS
    for count in range(1, limit + 1):
        tokens = free[:count]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        if not request.ignore_eos:
            if tokens[-1] == eos:
                return (tokens, tokenizer.decode(tokens[:-1], skip_special_tokens=True), FinishReason.stop)
            ends = [text.index(stop) for stop in request.stop if stop in text]
            if ends:
                return tokens, text[: min(ends)], FinishReason.stop
    return (free[:limit], tokenizer.decode(free[:limit], skip_special_tokens=True), FinishReason.length)


@pytest.mark.thorough
@pytest.mark.slow
def test_repetition_penalty_is_that_of_generate(saved_family: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = of_family(saved_family, generation=replace(GREEDY, repetition_penalty=1.3))
    expected = generated(*_loaded(spec), repetition_penalty=1.3)
    assert expected != generated(*_loaded(spec))
    in_every_way(spec, expected, monkeypatch).close()


@pytest.mark.thorough
@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_a_sample_depends_on_its_seed_and_index_only(
    saved_family: Saved, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = replace(GREEDY, temperature=0.9, top_k=40, top_p=0.95, repetition_penalty=penalty)
    spec = of_family(saved_family, generation=generation)
    plain = open_engine(replace(spec, model=replace(spec.model, attention=Attention.sdpa)))
    expected: dict[Any, list[int]] = {}
    for request in requests():  # alone, and decoded by the model's own attention
        expected |= complete(plain, [request])
    plain.close()
    engine = in_every_way(spec, expected, monkeypatch)
    renumbered = [replace(request, id=int(request.id) + 100) for request in requests()]
    other = complete(engine, renumbered)
    assert all(other[index + 100] != tokens for index, tokens in expected.items()), (
        "another index, another sample"
    )
    engine.close()
    assert complete(open_engine(replace(spec, seed=spec.seed + 1)), requests()) != expected


@pytest.mark.thorough
def test_many_groups_of_prefixes_in_one_batch(saved_family: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty beginnings in one batch, rows of all of them alive at once."""
    monkeypatch.setattr(prefix_tree, "MIN_SAVED", 32)
    spec = of_family(saved_family, generation=replace(GREEDY, max_new_tokens=6))
    prompts = [f"{number} {AGENTS[number % 2]}{end}" for number in range(20) for end in "ab"]
    expected = generated(*_loaded(spec), prompts, 6)
    engine = open_engine(spec)
    assert complete(engine, requests(prompts)) == expected
    assert engine.stats.shared_tokens >= 40 * len(AGENTS[0])
    engine.close()


@pytest.mark.thorough
def test_a_prompt_without_tokens_is_an_error_of_that_sample(saved_family: Saved) -> None:
    spec = of_family(saved_family)
    engine = open_engine(spec)
    expected = complete(engine, requests())
    done = {one.id: one for one in contract.complete_requests(engine, [*requests(), Request(99, "")])}
    assert {index: done[index].answer.token_ids for index in expected} == expected
    assert done[99].answer.finish_reason is FinishReason.error
    assert "no tokens" in str(done[99].error)
    engine.close()


@pytest.mark.thorough
def test_prefixes_are_let_go_with_their_last_row(
    saved_family: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ends, interruptions and errors, no prefix is kept that no row uses."""
    engine = open_engine(of_family(saved_family))
    made: list[Prefix] = []
    real = prefix_tree.find_shared_prefixes

    def share(*given: Any) -> Any:
        prefixes = real(*given)
        made.extend({id(one): one for prefix in prefixes if prefix for one in prefix.path}.values())
        return prefixes

    monkeypatch.setattr(prefix_tree, "find_shared_prefixes", share)
    complete(engine, requests())
    with engine.open(3) as session:
        contract.run_requests(
            session, requests(), lambda events: not any(isinstance(one, Completion) for one in events)
        )
        assert any(prefix.kv is not None for prefix in made)
    assert made
    assert all(prefix.kv is None and prefix.users == 0 for prefix in made)
    engine.close()
