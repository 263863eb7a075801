"""Rows of several adapters in one batch have the tokens that each has where its adapter decodes
alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import save_adapter, with_adapter
from hybrids import save_hybrid
from loading import IDS
from mixtures import mixture
from opening import adapt, load_base, make_spec, open_engine
from raising import raises
from streams import AGENTS, QUESTIONS, SYSTEM, complete, generated, tokens_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base import MIB
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.kv_cache.prefix_tree import PrefixTree
from runner_engine.local.preload_checks import check_model_and_adapter_files
from runner_engine.models.adapter_lifecycle import detach_adapter
from runner_engine.models.lora.multi_adapter import TokenAdapters
from runner_engine.plan.footprint import predict_footprint
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.sessions import contract
from runner_engine.sessions.base import MissingCapability, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.named_adapters import MultiAdapterConfig
from runner_engine.settings.speculation import SpeculationConfig
from runner_engine.spec import ModelSpec

NEW_TOKENS = 6
PROMPTS = [SYSTEM + agent + question for agent in AGENTS for question in QUESTIONS[:2]]
MATH = {"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4}
STYLE = {  # other layers, ranks and factors than those of the first one
    "target_modules": ["q_proj", "o_proj", "up_proj"], "r": 8, "use_rslora": True, "rank_pattern": {"o_proj": 2},
    "alpha_pattern": {"up_proj": 32}, "layers_to_transform": [1],
}  # fmt: skip
NAMES = ("math", "style", None)


class Case:
    """A base with two adapters, and what transformers and PEFT answer with each alone."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.base = base
        self.places = {
            "math": save_adapter(folder / "math", base, **MATH),
            "style": save_adapter(folder / "style", base, **STYLE),
        }
        tokenizer = AutoTokenizer.from_pretrained(base)
        models: dict[str | None, Any] = {
            name: with_adapter(base, place) for name, place in self.places.items()
        }
        models[None] = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self.alone = {
            name: generated(model, tokenizer, PROMPTS, NEW_TOKENS) for name, model in models.items()
        }

    def spec(self, **groups: Any) -> ModelSpec:
        several = MultiAdapterConfig({name: str(place) for name, place in self.places.items()})
        return make_spec(**(plain(self.base) | {"lora": several} | groups))

    def expected(self, names: Sequence[str | None] = NAMES) -> dict[Any, list[int]]:
        return {
            f"{name} {at}": self.alone[other][at]
            for name, other in zip(NAMES, names, strict=True)
            for at in range(len(PROMPTS))
        }


def plain(base: Path) -> dict[str, Any]:
    return {
        "model": LocalModelConfig(name=str(base), device="cpu", dtype=Dtype.float32),
        "generation": GenerationConfig(max_new_tokens=NEW_TOKENS),
    }


def mixed(names: Sequence[str | None] = NAMES, **keys: Any) -> list[Request]:
    """Ask each prompt with each adapter; neighbours in the batch have different ones."""
    return [
        Request(f"{name} {at}", prompt, adapter=adapter, **keys)
        for at, prompt in enumerate(PROMPTS)
        for name, adapter in zip(NAMES, names, strict=True)
    ]


def answered(
    spec: ModelSpec, requests: Sequence[Request], batch_size: int | None = None
) -> dict[Any, list[int]]:
    engine = open_engine(spec)
    try:
        return complete(engine, requests, batch_size)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def case(saved_family: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Case:
    base = saved_family("llama", max_position_embeddings=512)
    return Case(tmp_path_factory.mktemp("adapters"), base)


@pytest.mark.thorough
@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_each_row_has_the_tokens_of_its_adapter_alone(case: Case, batch_size: int | None) -> None:
    assert answered(case.spec(), mixed(), batch_size) == case.expected()


def test_the_adapters_exchanged_give_other_tokens(case: Case) -> None:
    swapped = ("style", "math", None)
    found = answered(case.spec(), mixed(swapped))
    assert found == case.expected(swapped)
    for at in range(len(PROMPTS)):
        each = [case.alone[name][at] for name in NAMES]
        assert len({tuple(tokens) for tokens in each}) == 3, "else the test above shows nothing"


@pytest.mark.thorough
def test_an_adapter_on_the_wrong_rows_is_seen(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = TokenAdapters.assign_adapters_to_tokens

    def shifted(self: TokenAdapters, names: Sequence[str | None]) -> Any:
        return reading(self, [*names[1:], *names[:1]])

    monkeypatch.setattr(TokenAdapters, "assign_adapters_to_tokens", shifted)
    assert answered(case.spec(), mixed()) != case.expected()


@pytest.mark.thorough
def test_prompts_of_two_adapters_share_no_prefix(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(case.spec())
    try:
        assert complete(engine, mixed()) == case.expected()
        assert engine.stats.shared_tokens > 3 * len(SYSTEM), "each adapter's prompts share theirs"
    finally:
        engine.close()

    arrange = PrefixTree.assign_shared_prefixes

    def as_if_one(self: PrefixTree, prompts: Any, mentioned: Any = ()) -> Any:
        own = [prompt.kv.adapter for prompt in prompts]
        for prompt in prompts:
            prompt.kv.adapter = "math"
        numbers = arrange(self, prompts, mentioned)
        for prompt, adapter in zip(prompts, own, strict=True):
            prompt.kv.adapter = adapter
        return numbers

    monkeypatch.setattr(PrefixTree, "assign_shared_prefixes", as_if_one)
    found, right = answered(case.spec(), mixed()), case.expected()
    of_math = [key for key in right if key.startswith("math")]
    assert [found[key] for key in of_math] == [right[key] for key in of_math]
    assert any(found[key] != right[key] for key in right), "shared keys would be seen"


@pytest.mark.thorough
@pytest.mark.parametrize("kept", ["recurring", "keep"])
def test_what_is_kept_of_a_prompt_is_its_adapters(case: Case, kept: str) -> None:
    engine = open_engine(case.spec())
    try:
        for at, name in enumerate((*NAMES, *NAMES)):
            before = engine.stats.shared_tokens
            with engine.open() as session:
                request = replace(Request(0, PROMPTS[0], adapter=name), **{kept: True})  # type: ignore[arg-type]
                done: list[Any] = []
                contract.run_requests(session, [request], done.extend)
            assert tokens_of(done) == {0: case.alone[name][0]}
            reused = engine.stats.shared_tokens - before
            assert (reused > len(SYSTEM)) == (at >= len(NAMES)), "each had its own the second time"
    finally:
        engine.close()


@pytest.mark.thorough
def test_given_texts_are_scored_with_the_requests_adapter(case: Case) -> None:
    engine, found = open_engine(case.spec()), {}
    requests = [
        Request(name or "base", PROMPTS[0], adapter=name, continuation=" and then some") for name in NAMES
    ]
    for completion in contract.complete_requests(engine, requests):
        assert completion.logprobs is not None
        found[completion.id] = torch.tensor(completion.logprobs)
    engine.close()
    tokenizer = AutoTokenizer.from_pretrained(case.base)
    ids = tokenizer(PROMPTS[0])["input_ids"]
    whole = torch.tensor([tokenizer(PROMPTS[0] + " and then some")["input_ids"]])
    for name, place in case.places.items():
        with torch.inference_mode():
            logits = with_adapter(case.base, place)(whole).logits[0].log_softmax(-1)
        right = logits[len(ids) - 1 : -1].gather(1, whole[0, len(ids) :, None])[:, 0]
        torch.testing.assert_close(found[name], right, atol=1e-4, rtol=0)
        assert not torch.allclose(found["base"], right, atol=1e-3)


def test_guesses_are_checked_with_the_rows_adapter(case: Case) -> None:
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS, speculate=SpeculationConfig.ngram)
    assert answered(case.spec(generation=generation), mixed()) == case.expected()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "quantization",
    # without outliers, of which those of one row count for all rows
    [Nf4Config(), Int8Config(threshold=0.0)],
    ids=lambda one: one.name,
)
def test_quantized_bases(case: Case, quantization: Any) -> None:
    found = answered(case.spec(quantization=quantization), mixed())
    for name in NAMES:
        lora = {} if name is None else {"lora": PeftConfig(path=str(case.places[name]))}
        alone = make_spec(**plain(case.base), quantization=quantization, **lora)
        requests = [Request(at, prompt) for at, prompt in enumerate(PROMPTS)]
        assert {at: found[f"{name} {at}"] for at in range(len(PROMPTS))} == answered(alone, requests)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("family", "modules"),
    [
        ("qwen3_5", ["in_proj_qkv", "out_proj", "q_proj"]),
        ("lfm2", ["in_proj", "out_proj", "q_proj"]),
        ("mixtral", ["q_proj", "o_proj"]),
    ],
)
def test_states_and_mixtures(tiny_llama: Path, tmp_path: Path, family: str, modules: list[str]) -> None:
    if family == "mixtral":
        base = tmp_path / "base"
        mixture(family, vocab_size=259).save_pretrained(base)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(base)
    else:
        base = save_hybrid(tmp_path / "base", family, tiny_llama)
    places = {
        "math": save_adapter(tmp_path / "math", base, target_modules=modules),
        "style": save_adapter(tmp_path / "style", base, target_modules=modules[:1], r=16),
    }
    several = MultiAdapterConfig({name: str(place) for name, place in places.items()})
    found = answered(make_spec(**plain(base), lora=several), mixed())
    for name, place in places.items():
        alone = make_spec(**plain(base), lora=PeftConfig(path=str(place)))
        requests = [Request(at, prompt) for at, prompt in enumerate(PROMPTS)]
        right = answered(alone, requests)
        assert {at: found[f"{name} {at}"] for at in range(len(PROMPTS))} == right
        assert right != {at: found[f"None {at}"] for at in range(len(PROMPTS))}


def test_the_base_is_as_before_and_the_memory_is_as_predicted(case: Case) -> None:
    spec = case.spec()
    base = load_base(spec)
    before = logits(base.model)
    adapted = adapt(base, spec)
    predicted, without = (
        predict_footprint(resolve_model(one), (1, 16, 12)) for one in (spec, make_spec(**plain(case.base)))
    )
    assert predicted is not None
    assert without is not None
    own = adapted.metrics["weight_mib"] - sum(base.bytes_by_dtype.values()) / MIB
    assert own > 0
    assert predicted.weight_mib - without.weight_mib == pytest.approx(own)
    assert own * MIB == 4 * adapted.metrics["lora_parameters"]
    assert adapted.facts["lora"].startswith("several, not merged: math: 6 modules of rank 4; style: ")
    assert detach_adapter(adapted, spec)
    assert torch.equal(logits(base.model), before)
    assert not any(module._forward_hooks for module in base.model.modules())


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS).logits
    return found


@pytest.mark.thorough
def test_who_has_no_such_adapter_is_told_which_there_are(case: Case) -> None:
    engine = open_engine(case.spec())
    with engine.open() as session, raises(ConfigError, "unknown_choice"):
        session.submit(Request(0, "x", adapter="maths"))
    engine.close()
    engine = open_engine(make_spec(**plain(case.base)))
    with engine.open() as session, raises(MissingCapability, "unsupported"):
        session.submit(Request(0, "x", adapter="math"))
    engine.close()


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [40, 41]}, "trainable_token_indices"),
        ({"target_parameters": ["o_proj.weight"]}, "target_parameters"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, " model.embed_tokens"),
        ({"target_modules": ["lm_head", "q_proj"]}, " lm_head"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)  # fmt: skip
def test_what_cannot_stand_beside_others_is_refused_before_the_load(
    case: Case, tmp_path: Path, keys: dict[str, Any], named: str
) -> None:
    other = save_adapter(tmp_path / "other", case.base, **({"target_modules": ["q_proj"]} | keys))
    lora = MultiAdapterConfig({"math": str(case.places["math"]), "other": str(other)})
    with pytest.raises(ConfigError) as raised:
        check_model_and_adapter_files(resolve_model(make_spec(**plain(case.base), lora=lora)))
    assert raised.value.code == "unsupported"
    assert str(raised.value).startswith(f"lora.adapters.other={other}")
    assert named in raised.value.reason


def test_another_base_and_another_name_are_refused(
    case: Case, saved_family: Callable[..., Path], tmp_path: Path
) -> None:
    wide = saved_family("llama", head_dim=32)
    other = save_adapter(tmp_path / "other", wide, target_modules=["q_proj"])
    lora = MultiAdapterConfig({"math": str(case.places["math"]), "other": str(other)})
    with raises(ConfigError, "mismatch", f"lora.adapters.other={other} does not fit model.name={case.base}"):
        check_model_and_adapter_files(resolve_model(make_spec(**plain(case.base), lora=lora)))
    with raises(ConfigError, "bad_value", "lora.adapters"):
        MultiAdapterConfig({"a b": "x"})
    with raises(ConfigError, "missing", "lora.adapters.math"):
        MultiAdapterConfig({"math": " "})
