"""2D RoPE against a reference written from its definition, in every way in which a model is run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, PEFT_WARNS, build, pth_state, save_peft, save_pth, settings
from opening import adapt, load_base, make_spec, open_engine
from raising import raises
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from runner_base.errors import ConfigError
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.models.adapter_lifecycle import detach_adapter
from runner_engine.models.rope import rope_2d
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig, PeftConfig, PthConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig, RopeConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

SHAPES = [(family, 64) for family in FAMILIES] + [("llama", 128), ("qwen3", 128)]
IDS = torch.arange(3, 40)[None]


def reference(
    inv_freq: list[float], ratio: float, stride: int, branch: int, time: int, position: int, scaling: float
) -> tuple[list[float], list[float]]:
    """cos and sin of one token, pair by pair, from the definition: pairs are numbered 1 … F."""
    count = len(inv_freq)
    patched = max(1, min(count, round(count * ratio)))
    angles = []
    for number in range(1, count + 1):
        k = number - (count - patched + 1)  # 0, 1, 2, … over the patched pairs
        coordinate = position if k < 0 else branch * stride if k % 2 == 0 else time
        angles.append(inv_freq[number - 1] * coordinate)
    return [math.cos(a) * scaling for a in angles + angles], [math.sin(a) * scaling for a in angles + angles]


# since the tests have few positions
LARGE_ANGLES = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}


def tiny(family: str, head_dim: int = 64, attention: str = "sdpa", **keys: Any) -> Any:
    return build(family, head_dim, **{"attn_implementation": attention} | LARGE_ANGLES | keys)


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = model(ids).logits
    return output


# ------------------------------------------------------------------------------------------ cos and
# sin


@pytest.mark.parametrize("pairs", [8, 32, 64])
@pytest.mark.parametrize("ratio", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("stride", [1, 128])
def test_cos_and_sin_equal_the_definition(pairs: int, ratio: float, stride: int) -> None:
    config = LlamaConfig(hidden_size=2 * pairs, num_attention_heads=1, max_position_embeddings=64)
    rotary = LlamaRotaryEmbedding(config)
    rotary.attention_scaling = 1.25
    patch = rope_2d.Rope2dEmbedding(rotary, Rope2dConfig(ratio=ratio, stride=stride))
    branches = torch.tensor([[0, 0, 1, 2, 7], [0, 3, 3, 1, 0]])
    times = torch.tensor([[0, 1, 2, 2, 9], [5, 6, 7, 8, 40]])
    positions = torch.tensor([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]])
    patch.pos2d = torch.stack((branches * stride, times), dim=-1)
    cos, sin = patch(torch.zeros(2, 5, 1), positions)
    assert cos.shape == sin.shape == (2, 5, 2 * pairs)
    for row in range(2):
        for at in range(5):
            token = (int(branches[row, at]), int(times[row, at]), int(positions[row, at]))
            expected = reference(rotary.inv_freq.tolist(), ratio, stride, *token, 1.25)
            torch.testing.assert_close(cos[row, at], torch.tensor(expected[0]), atol=1e-4, rtol=0)
            torch.testing.assert_close(sin[row, at], torch.tensor(expected[1]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", [0, 0.25, 0.5, 1])
def test_a_single_stream_is_branch_0_at_the_time_of_its_position(ratio: float) -> None:
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=1))
    patch = rope_2d.Rope2dEmbedding(rotary, Rope2dConfig(ratio=ratio))
    positions = torch.tensor([[0, 0, 1, 2], [37, 38, 39, 40]])
    cos, sin = patch(torch.zeros(2, 4, 1), positions)
    for row in range(2):
        for at in range(4):
            position = int(positions[row, at])
            expected = reference(rotary.inv_freq.tolist(), ratio, 128, 0, position, position, 1.0)
            torch.testing.assert_close(cos[row, at], torch.tensor(expected[0]), atol=1e-5, rtol=0)
            torch.testing.assert_close(sin[row, at], torch.tensor(expected[1]), atol=1e-5, rtol=0)


def test_which_pairs_are_patched() -> None:
    assert list(rope_2d.list_2d_rope_frequency_pairs(32, 0.5)) == list(range(17, 33))
    assert list(rope_2d.list_2d_rope_frequency_pairs(32, 0)) == [32], "one pair at least"
    assert list(rope_2d.list_2d_rope_frequency_pairs(8, 1)) == list(range(1, 9))
    assert len(rope_2d.list_2d_rope_frequency_pairs(5, 0.5)) == 2, "2.5 is rounded to even, as Python does"
    assert len(rope_2d.list_2d_rope_frequency_pairs(7, 0.5)) == 4, "and 3.5 too"
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=1))
    described = rope_2d.Rope2dEmbedding(rotary, Rope2dConfig()).describe()
    assert described == "rope_2d, pairs 17–32 of 32: branch 17, 19, … time 18, 20, …, stride 128"
    one = rope_2d.Rope2dEmbedding(rotary, Rope2dConfig(ratio=0, stride=64)).describe()
    assert one == "rope_2d, pair 32 of 32: branch 32, stride 64"


# --------------------------------------------------------------------------------------- whole
# models


class Reference(torch.nn.Module):
    """The definition as a module: branch 0, time = position."""

    def __init__(self, native: Any, ratio: float) -> None:
        super().__init__()
        self.frequencies, self.ratio = native.inv_freq.tolist(), ratio

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Go through the tokens one by one."""
        rows = [
            [reference(self.frequencies, self.ratio, 128, 0, int(p), int(p), 1.0) for p in row]
            for row in position_ids
        ]
        return tuple(torch.tensor([[token[part] for token in row] for row in rows]).to(x) for part in (0, 1))  # type: ignore[return-value]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("family", "head_dim"), SHAPES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_way_of_running_it_gives_the_same_logits(family: str, head_dim: int, attention: str) -> None:
    model = tiny(family, head_dim, attention)
    native, rotary = logits(model), model.model.rotary_emb
    patch = rope_2d.patch_rope_2d(model, Rope2dConfig())
    assert patch.pairs == head_dim // 2
    whole = logits(model)
    assert (whole - native).abs().max() > 1e-2, "branch pairs have stopped turning"

    model.model.rotary_emb = Reference(rotary, 0.5)
    torch.testing.assert_close(whole, logits(model), atol=1e-5, rtol=0)
    model.model.rotary_emb = patch

    cache, steps = DynamicCache(config=model.config), []
    with torch.inference_mode():
        for token in IDS[0]:
            output = model(token[None, None], past_key_values=cache, use_cache=True)
            steps.append(output.logits[0])
    torch.testing.assert_close(torch.cat(steps), whole[0], atol=1e-5, rtol=0)

    lengths = [37, 5, 20]
    padded = torch.zeros(3, 37, dtype=torch.long)
    for row, length in enumerate(lengths):
        padded[row, 37 - length :] = IDS[0, :length]
    mask = (padded != 0).long()
    positions = (mask.cumsum(-1) - 1).clamp_(min=0)
    with torch.inference_mode():
        batch = model(padded, attention_mask=mask, position_ids=positions).logits
    for row, length in enumerate(lengths):
        alone = logits(model, IDS[:, :length])[0]
        torch.testing.assert_close(batch[row, 37 - length :], alone, atol=1e-5, rtol=0)

    assert rope_2d.unpatch_rope_2d(model)
    assert not rope_2d.unpatch_rope_2d(model)
    assert torch.equal(logits(model), native), "bit for bit"


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_generate_needs_no_help(family: str) -> None:
    """Left-padded and batched, cached and uncached, each row as if it were alone."""
    model = tiny(family)
    rope_2d.patch_rope_2d(model, Rope2dConfig())
    prompts = [IDS[0, :11], IDS[0, 7:11]]
    padded = torch.stack([torch.nn.functional.pad(prompt, (11 - len(prompt), 0)) for prompt in prompts])
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    batch = model.generate(padded, attention_mask=(padded != 0).long(), **settings)[:, 11:]
    for row, prompt in enumerate(prompts):
        for cached in (True, False):
            ids = prompt[None]
            alone = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=cached, **settings)
            assert alone[0, len(prompt) :].tolist() == batch[row].tolist()


def test_over_a_scaling_the_frequencies_are_the_scaled_ones() -> None:
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    model = tiny("llama", rope_parameters=linear)
    native = model.model.rotary_emb
    patch = rope_2d.patch_rope_2d(model, Rope2dConfig(ratio=0))
    cos, _ = patch(torch.zeros(1, 9, 1), torch.arange(9)[None])
    expected, _ = native(torch.zeros(1, 9, 1), torch.arange(9)[None])
    assert torch.equal(cos[..., :31], expected[..., :31])
    assert torch.equal(cos[..., 31], torch.ones(1, 9)), "the branch pair stands still"


def test_over_dynamic_scaling_the_frequencies_still_grow() -> None:
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = tiny("llama", rope_parameters=dynamic)
    patch = rope_2d.patch_rope_2d(model, Rope2dConfig())
    before = patch.native.inv_freq.clone()
    patch(torch.zeros(1, 300, 1), torch.arange(300)[None])
    assert not torch.equal(patch.native.inv_freq, before)


# ------------------------------------------------------------------------------ quantized, adapted,
# undone


@pytest.fixture(scope="module")
def folder(saved_family: Callable[..., Path]) -> Path:
    return saved_family("llama", **LARGE_ANGLES)


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_peft(tmp_path_factory.mktemp("adapter"), folder, ("q_proj",))


@pytest.fixture(scope="module")
def loras(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoraConfig]:
    file = save_pth(tmp_path_factory.mktemp("pth") / "lora.pth", settings("llama"))
    return {"bare": LoraConfig(), "peft": PeftConfig(path=str(adapter)), "pth": PthConfig(path=str(file))}


@pytest.fixture
def model_config(folder: Path) -> LocalModelConfig:
    return LocalModelConfig(name=str(folder), device="cpu")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "quantization", [QuantizationConfig(), Int8Config(), Nf4Config()], ids=lambda q: q.name
)
@pytest.mark.parametrize("adapted", ["bare", "peft", "pth"])
def test_native_then_rope_2d_then_native(
    model_config: LocalModelConfig,
    loras: dict[str, LoraConfig],
    quantization: QuantizationConfig,
    adapted: str,
) -> None:
    plain = make_spec(model=model_config, quantization=quantization)
    turned = make_spec(
        model=model_config, quantization=quantization, rope=Rope2dConfig(), lora=loras[adapted]
    )
    before = logits(adapt(load_base(plain), plain).model)

    base = load_base(turned)
    assert base.metrics["rope_pairs_patched"] == 16
    assert base.facts["rope"].startswith("rope_2d, pairs 17–32 of 32: branch 17, 19, … time 18, 20, …")
    loaded = adapt(base, turned)
    patched = logits(loaded.model)
    assert (patched - before).abs().max() > 1e-2
    with torch.inference_mode():
        cache = DynamicCache(config=loaded.model.config)
        loaded.model(IDS[:, :-1], past_key_values=cache, use_cache=True)
        last = loaded.model(IDS[:, -1:], past_key_values=cache, use_cache=True).logits
    if quantization.name == "none":
        torch.testing.assert_close(last[:, -1], patched[:, -1], atol=1e-5, rtol=0)
    else:
        assert torch.isfinite(last).all()

    assert detach_adapter(loaded, turned)
    assert rope_2d.unpatch_rope_2d(base.model)
    after = adapt(base, plain)
    assert torch.equal(logits(after.model), before), "bit for bit"


def test_a_pth_adapter_under_rope_2d_equals_merged_weights_and_the_definition(
    model_config: LocalModelConfig, folder: Path, loras: dict[str, LoraConfig]
) -> None:
    spec = make_spec(model=model_config, rope=Rope2dConfig(), lora=loras["pth"])
    found = logits(adapt(load_base(spec), spec).model)
    for without in ({"rope": RopeConfig()}, {"lora": LoraConfig()}):
        other = make_spec(**{"model": model_config, "rope": Rope2dConfig(), "lora": loras["pth"]} | without)
        assert (logits(adapt(load_base(other), other).model) - found).abs().max() > 1e-2
    model, state = AutoModelForCausalLM.from_pretrained(folder), pth_state(settings("llama"))
    for key in [key for key in state if ".A." in key]:
        layer: Any = model.get_submodule(key.removesuffix(".lora.A.weight"))
        layer.weight.data += state[key.replace(".A.", ".B.")] @ state[key]
    model.model.rotary_emb = Reference(model.model.rotary_emb, 0.5)
    torch.testing.assert_close(found, logits(model), atol=1e-5, rtol=0)


# Largest difference of logits of size 1 to 4. int8 rounds the activations of each token by
# themselves, 4 bit computes in bfloat16, and its kernels add up in another order for another number
# of tokens.
TOLERANCES = {"none": 1e-5, "int8": 1e-5, "nf4": 0.05}


@pytest.mark.thorough
@pytest.mark.parametrize("adapted", ["bare", "peft", "pth"])
@pytest.mark.parametrize(
    "quantization", [QuantizationConfig(), Int8Config(), Nf4Config()], ids=lambda q: q.name
)
@pytest.mark.parametrize("attention", [Attention.sdpa, Attention.eager])
def test_one_pass_is_token_by_token_is_left_padded(
    model_config: LocalModelConfig,
    loras: dict[str, LoraConfig],
    attention: Attention,
    quantization: QuantizationConfig,
    adapted: str,
) -> None:
    model_config = dataclasses.replace(model_config, attention=attention)
    spec = make_spec(model=model_config, quantization=quantization, rope=Rope2dConfig(), lora=loras[adapted])
    model, lengths = adapt(load_base(spec), spec).model, [37, 5, 20]
    padded = torch.stack([torch.nn.functional.pad(IDS[0, :length], (37 - length, 0)) for length in lengths])
    mask = (padded != 0).long()
    positions, cache = (mask.cumsum(-1) - 1).clamp_(min=0), DynamicCache(config=model.config)
    steps = []
    with torch.inference_mode():
        for at in range(37):  # the batch token by token over one cache, padding and all
            step = slice(at, at + 1)
            output = model(
                padded[:, step],
                attention_mask=mask[:, : at + 1],
                position_ids=positions[:, step],
                past_key_values=cache,
                use_cache=True,
            )
            steps.append(output.logits)
        batch = model(padded, attention_mask=mask, position_ids=positions).logits
    cached = torch.cat(steps, dim=1)
    tolerance = TOLERANCES[quantization.name]
    for row, length in enumerate(lengths):
        alone = logits(model, IDS[:, :length])[0]
        torch.testing.assert_close(batch[row, 37 - length :], alone, atol=tolerance, rtol=0)
        torch.testing.assert_close(cached[row, 37 - length :], alone, atol=tolerance, rtol=0)
    native = make_spec(model=model_config, quantization=quantization, lora=loras[adapted])
    apart = (logits(adapt(load_base(native), native).model) - logits(model)).abs().max()
    assert apart > 2 * tolerance, "the tolerance is smaller than what it must tell apart"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "quantization", [QuantizationConfig(), Int8Config(), Nf4Config()], ids=lambda q: q.name
)
def test_jobs_leave_nothing_behind(
    model_config: LocalModelConfig, loras: dict[str, LoraConfig], quantization: QuantizationConfig
) -> None:
    """Native, then 2D with each adapter, then native, in one process and on one base cache: the
    same bits."""
    bases, seen = BaseModelCache(), []
    two_d = Rope2dConfig()
    for rope, lora in (
        (RopeConfig(), "bare"), (RopeConfig(), "peft"), (RopeConfig(), "bare"), (two_d, "pth"), (two_d, "peft"),
        (two_d, "bare"), (two_d, "pth"), (two_d, "bare"), (RopeConfig(), "pth"), (RopeConfig(), "bare"),
    ):  # fmt: skip
        spec = make_spec(model=model_config, quantization=quantization, rope=rope, lora=loras[lora])
        engine = open_engine(spec, bases)
        list(contract.complete_requests(engine, [Request(0, tuple(IDS[0].tolist()), max_new_tokens=2)]))
        seen.append((rope.name, lora, logits(engine.loaded.model)))
        engine.close()
    for kind in ("native", "rope_2d"):
        bare, adapted = [[logit for name, lora, logit in seen if name == kind and (lora == "bare") is same] for same in (True, False)]  # fmt: skip
        assert len(bare) >= 2
        assert all(torch.equal(logit, bare[0]) for logit in bare), f"{kind}: bit for bit"
        assert all((logit - bare[0]).abs().max() > 1e-2 for logit in adapted)
    pth = [logit for name, lora, logit in seen if (name, lora) == ("rope_2d", "pth")]
    assert torch.equal(*pth), "and the same adapter is the same again"


@pytest.mark.filterwarnings(f"ignore:{PEFT_WARNS}:FutureWarning")
def test_wrapped_models_are_searched_breadth_first(folder: Path, adapter: Path) -> None:
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(folder)
    inner = plain.model.rotary_emb
    wrapped = PeftModel.from_pretrained(plain, str(adapter))
    ddp = torch.nn.Module()
    ddp.module = wrapped
    for outer in (plain.model, plain, wrapped, ddp):
        patch = rope_2d.patch_rope_2d(outer, Rope2dConfig())
        assert patch.native is inner
        assert plain.model.rotary_emb is patch
        with raises(ConfigError, "conflict", "rope"):
            rope_2d.patch_rope_2d(outer, Rope2dConfig())
        assert rope_2d.unpatch_rope_2d(outer)
        assert plain.model.rotary_emb is inner


@pytest.mark.thorough
def test_jobs_of_another_rope_on_one_base_cache_get_a_clean_base(model_config: LocalModelConfig) -> None:
    generation = GenerationConfig(max_new_tokens=8)
    bases, answers, loads = BaseModelCache(), [], []
    for rope in ({}, {"rope": Rope2dConfig()}, {}):
        engine = open_engine(make_spec(model=model_config, generation=generation, **rope), bases)
        loads.append(engine.load().metrics["base_loads"])
        requests = [Request(i, tuple(IDS[0, : 9 + 7 * i].tolist()), ignore_eos=True) for i in range(3)]
        answers.append(
            {done.id: done.answer.token_ids for done in contract.complete_requests(engine, requests)}
        )
        engine.close()
    assert loads == [1, 1, 1]
    assert answers[0] == answers[2]
    assert answers[0] != answers[1]


@pytest.mark.thorough
@pytest.mark.parametrize("attention", [Attention.sdpa, Attention.eager])
def test_the_engine_answers_as_generate_does_whatever_the_batch(folder: Path, attention: Attention) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention.value).eval()
    rope_2d.patch_rope_2d(model, Rope2dConfig(ratio=0.25, stride=16))
    spec = make_spec(
        model=LocalModelConfig(name=str(folder), device="cpu", attention=attention),
        rope=Rope2dConfig(ratio=0.25, stride=16),
        generation=GenerationConfig(max_new_tokens=10),
    )
    requests = [Request(i, tuple(IDS[0, i : 2 + 5 * i + i].tolist()), ignore_eos=True) for i in range(4)]
    for size in (1, 3, 4):
        for done in contract.complete_requests(open_engine(spec), requests, size):
            ids = torch.tensor([requests[int(done.id)].prompt])
            settings = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
            plain = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
            assert done.answer.token_ids == plain[0, ids.shape[1] :].tolist()


# ------------------------------------------------------------------------------------------- errors


def test_reached_without_coordinates() -> None:
    model = tiny("llama")
    patch = rope_2d.patch_rope_2d(model, Rope2dConfig())
    with pytest.raises(
        RuntimeError, match=r"no token coordinates.*Pass position_ids.*set_token_coordinates\(model"
    ):
        patch(torch.zeros(1, 3, 1))
    with (
        rope_2d.require_token_coordinates(model),
        pytest.raises(RuntimeError, match="2D rope has no token coordinates"),
    ):
        model(IDS)
    two = torch.zeros(1, 2, dtype=torch.long)
    with (
        rope_2d.set_token_coordinates(model, two, two),
        pytest.raises(RuntimeError, match="coordinates for 2 tokens, .* has 37"),
    ):
        model(IDS)
    assert patch.pos2d is None, "an error leaves no coordinates behind"
    assert torch.isfinite(logits(model)).all()


def test_coordinates_need_the_patch() -> None:
    two = torch.zeros(1, 2, dtype=torch.long)
    with raises(ConfigError, "missing", "rope"), rope_2d.set_token_coordinates(tiny("llama"), two, two):
        pass


def test_another_layout_of_the_pairs_is_refused() -> None:
    """Cohere rotates neighbours: numbering its pairs as if they were in two halves would be another
    model."""
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    model = CohereForCausalLM(config)
    with raises(ConfigError, "unsupported", "rope"):
        rope_2d.patch_rope_2d(model, Rope2dConfig())
    assert rope_2d.find_rope_2d(model) is None
