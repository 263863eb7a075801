"""Every sensible combination of shape, quantization, adapter and rope loads, generates and reports
what is there.

Each test combines one shape of a family and one quantization with some ropes and adapters, and the
next quantization with the next shape and ropes, so that any two choices meet. Expected values come
from the config's numbers and the adapters' files, not from the loaded model.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, pth_state, save_peft, save_pth, settings, squares
from opening import load_base, make_spec, open_engine
from raising import raises
from safetensors.torch import load_file

from runner_base.dtypes import Dtype
from runner_base.errors import Code, ConfigError
from runner_base.result import FinishReason
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.models.base_loading import LoadedModel
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Fp4Config, Int8Config, Nf4Config
from runner_engine.quantization.gguf import GgufConfig
from runner_engine.quantization.grouped import AwqConfig, GptqConfig
from runner_engine.quantization.torchao import Int8DynamicConfig, TorchaoInt8Config
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig, PeftConfig, PthConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import (
    Rope2dConfig,
    RopeConfig,
    RopeDynamicConfig,
    RopeLinearConfig,
    RopeLlama3Config,
    RopeYarnConfig,
)
from runner_engine.spec import ModelSpec

IDS = torch.arange(3, 40)[None]
QUANTIZATIONS: dict[str, QuantizationConfig] = {
    "none": QuantizationConfig(),
    "int8": Int8Config(),
    "nf4": Nf4Config(),
    "fp4": Fp4Config(),
    "int8_dynamic": Int8DynamicConfig(),
    "torchao_int8": TorchaoInt8Config(),
}
ROPES: dict[str, RopeConfig] = {  # native first: the others are compared with it
    "native": RopeConfig(),
    "rope_2d": Rope2dConfig(ratio=0.25, stride=16),
    "linear": RopeLinearConfig(factor=4),
    "dynamic": RopeDynamicConfig(factor=2),
    "yarn": RopeYarnConfig(factor=4, original_max_position_embeddings=64),
    "llama3": RopeLlama3Config(factor=4, original_max_position_embeddings=64),
}
# tied embeddings and the size of a head
SHAPES = ((True, 64), (False, 128), (True, 128), (False, 64))
LORAS = ("none", "peft", "pth")
RANK = 4


@dataclass(frozen=True)
class Shape:
    """A tiny model on disk, its config, and an adapter of each kind for it."""

    family: str
    tied: bool
    head_dim: int
    folder: Path
    peft: Path
    pth: Path

    @property
    def config(self) -> Any:
        return settings(self.family, self.head_dim, self.tied)

    def lora(self, name: str, **keys: Any) -> LoraConfig:
        match name:
            case "peft":
                return PeftConfig(path=str(self.peft), **keys)
            case "pth":
                return PthConfig(path=str(self.pth), **keys)
        return LoraConfig()


@pytest.fixture(scope="module")
def shape_of(
    saved_family: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Shape]:
    made: dict[tuple[Any, ...], Shape] = {}

    def shape(family: str, tied: bool, head_dim: int) -> Shape:
        key = (family, tied, head_dim)
        if key not in made:
            folder, adapters = (saved_family(family, head_dim, tied), tmp_path_factory.mktemp("adapters"))
            peft = save_peft(adapters / "peft", folder, rank=RANK)
            pth = save_pth(adapters / "lora.pth", settings(family, head_dim, tied), RANK)
            made[key] = Shape(*key, folder, peft, pth)
        return made[key]

    return shape


# ------------------------------------------------------------------- expected values from the
# config's numbers


def linear_sizes(config: Any) -> list[tuple[int, int]]:
    """[in, out] of every linear layer but the head, layer by layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (
        count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads)
    )
    layer = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    layer += [(hidden, inner), (hidden, inner), (inner, hidden)]
    return layer * config.num_hidden_layers


def other_parameters(config: Any) -> int:
    """Return the number of parameters in embeddings, an untied head, norms and biases."""
    hidden, layers, vocabulary = config.hidden_size, config.num_hidden_layers, config.vocab_size
    count = vocabulary * hidden * (1 if config.tie_word_embeddings else 2) + hidden * (2 * layers + 1)
    if config.model_type == "qwen2":  # biases of q, k and v
        count += layers * config.head_dim * (config.num_attention_heads + 2 * config.num_key_value_heads)
    if config.model_type == "qwen3":  # norms of queries and keys
        count += layers * 2 * config.head_dim
    return count


def linear_bytes(name: str, config: Any) -> tuple[int, int]:
    """Return the least and most bytes of the linear layers: weights, and scales with or without
    shared tables."""
    sizes = linear_sizes(config)
    numbers, rows = sum(i * o for i, o in sizes), sum(o for _, o in sizes)
    match name:
        case "none":
            return 4 * numbers, 4 * numbers
        case "int8":
            return numbers + 4 * rows, numbers + 4 * rows
        case "int8_dynamic" | "torchao_int8":
            return numbers + 4 * rows, numbers + 8 * rows  # perhaps a zero point per row
    blocks = numbers // 64
    nested = 4 * sum(math.ceil(i * o / 64 / 256) for i, o in sizes)
    return numbers // 2 + blocks + nested, numbers // 2 + blocks + nested + len(sizes) * 4 * (16 + 256)


def delta_norm(shape: Shape, name: str) -> float:
    """The norm of all deltas together, from the adapter's file."""
    if name == "pth":
        state = pth_state(shape.config, RANK)
        deltas = [state[key.replace(".A.", ".B.")] @ state[key] for key in state if ".A." in key]
    else:
        state = load_file(shape.peft / "adapter_model.safetensors")
        deltas = [2 * state[key.replace("lora_A", "lora_B")] @ state[key] for key in state if "lora_A" in key]
    return float(sum(delta.double().square().sum() for delta in deltas)) ** 0.5


def check_report(
    loaded: LoadedModel, shape: Shape, quantization: str, lora: str, rope: str, attention: Attention
) -> None:
    config, metrics, facts = shape.config, loaded.metrics, loaded.facts
    linears = len(linear_sizes(config))
    quantized = 0 if quantization == "none" else linears
    assert metrics["quantized_modules"] == quantized
    assert metrics["unquantized_linears"] == linears + 1 - quantized, "the head is left alone"
    if quantized:
        assert facts["left_alone"] in ("model.embed_tokens", "model.embed_tokens, lm_head")
        assert facts["quantized"].startswith(f"{quantization}: ")
        assert f" ({linears} of {linears + 1} linear layers: " in facts["quantized"]
    else:
        assert facts["quantized"] == "none"

    own = sum(i * o for i, o in linear_sizes(config)) + other_parameters(config)
    adapter = lora_parameters(config, lora)
    assert metrics["parameters"] == own
    frequencies = 4 * config.head_dim // 2
    rest = 4 * (other_parameters(config) + adapter) + frequencies
    low, high = linear_bytes(quantization, config)
    actual = metrics["weight_mib"] * 2**20
    assert low + rest <= actual <= high + rest + frequencies, (
        "where a scaling keeps the original frequencies, too"
    )
    sizes = {key: value for key, value in metrics.items() if key.startswith("weight_mib/")}
    assert sum(sizes.values()) == pytest.approx(metrics["weight_mib"])

    assert metrics["lora_modules"] == {"none": 0, "peft": 2 * 2, "pth": len(squares(config))}[lora]
    assert metrics["lora_rank"] == (0 if lora == "none" else RANK)
    assert metrics["lora_parameters"] == adapter
    if lora == "none":
        assert (metrics["lora_delta_norm"], facts["lora"]) == (0, "none")
    else:
        assert metrics["lora_delta_norm"] == pytest.approx(delta_norm(shape, lora), rel=1e-4)
        assert facts["lora"].startswith(f"{lora} ")

    pairs = config.head_dim // 2
    assert metrics["rope_pairs_patched"] == (max(1, round(pairs * 0.25)) if rope == "rope_2d" else 0)
    named = {"native": "default", "rope_2d": f"rope_2d, pairs {pairs - pairs // 4 + 1}–{pairs} of {pairs}"}
    assert facts["rope"].startswith(named.get(rope, f"{rope}, factor"))
    assert metrics["max_positions"] == {"linear": 1024, "dynamic": 512}.get(rope, 256)
    assert facts["attention"] == attention.value
    assert facts["device"] == "cpu"
    assert facts["architecture"] == FAMILIES[shape.family][1].__name__
    assert metrics["load_s"] > 0


def lora_parameters(config: Any, lora: str) -> int:
    hidden, queries = config.hidden_size, config.num_attention_heads * config.head_dim
    if lora == "peft":
        return config.num_hidden_layers * RANK * (hidden + queries + config.intermediate_size + hidden)
    return len(squares(config)) * RANK * 2 * hidden if lora == "pth" else 0


# ---------------------------------------------------------------------------------------------- any
# two choices


SCALED = [name for name in ROPES if name != "native"]


def ask(spec: ModelSpec, bases: BaseModelCache) -> tuple[LoadedModel, torch.Tensor, list[int]]:
    """Load, complete and close as a job does; return the loaded model, logits and tokens."""
    engine = open_engine(spec, bases)
    (done,) = contract.complete_requests(engine, [Request(0, tuple(IDS[0, :9].tolist()), ignore_eos=True)])
    assert done.answer.finish_reason is FinishReason.length
    loaded = engine.loaded
    with torch.inference_mode():
        logits = loaded.model(IDS).logits.float()
    engine.close()
    assert torch.isfinite(logits).all()
    return loaded, logits, done.answer.token_ids


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "quantization", "tied", "head_dim", "scaled"),
    [
        (
            family,
            quantization,
            *SHAPES[(row + column) % 4],
            [SCALED[(row + column + step) % 5] for step in (0, 4)],
        )
        for (row, family), (column, quantization) in itertools.product(
            enumerate(FAMILIES), enumerate(QUANTIZATIONS)
        )
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_ropes_and_adapters(
    shape_of: Callable[..., Shape],
    family: str,
    quantization: str,
    tied: bool,
    head_dim: int,
    scaled: list[str],
) -> None:
    if "torchao" in QUANTIZATIONS[quantization].library.packages and find_spec("torchao") is None:
        pytest.skip("the optional torchao is not installed")
    shape = shape_of(family, tied, head_dim)
    attention = Attention.eager if (tied, head_dim) in SHAPES[:2] else Attention.sdpa
    model = LocalModelConfig(name=str(shape.folder), device="cpu", dtype=Dtype.float32, attention=attention)
    generation = GenerationConfig(max_new_tokens=3)
    native: dict[str, torch.Tensor] = {}
    loras = {"native": (*LORAS, "none"), scaled[0]: ("none", "peft"), scaled[1]: ("none", "pth")}
    for rope in loras:
        bases, plain = BaseModelCache(), None
        for lora in loras[rope]:
            spec = make_spec(
                model=model,
                quantization=QUANTIZATIONS[quantization],
                lora=shape.lora(lora),
                rope=ROPES[rope],
                generation=generation,
            )
            loaded, logits, tokens = ask(spec, bases)
            check_report(loaded, shape, quantization, lora, rope, attention)
            assert len(tokens) == 3
            assert loaded.metrics["base_loads"] == (plain is None), "adapters are exchanged on one base"
            plain = logits if plain is None else plain
            what = f"{rope}, {lora}"
            if lora == "none":
                assert torch.equal(logits, plain), f"{what}: bit for bit as before the adapters"
            else:
                assert (logits - plain).abs().max() > 1e-2, f"{what}: the adapter changes the logits"
            if rope == "native":
                native[lora] = logits
            elif rope == "dynamic":
                assert torch.equal(logits, native[lora]), (
                    f"{what}: nothing changes within the model's own positions"
                )
            else:
                assert (logits - native[lora]).abs().max() > 1e-4, f"{what}: positions turn otherwise"


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "rope", "lora", "tied", "head_dim"),
    [
        (family, rope, LORAS[1 + (row + column) % 2], *SHAPES[(row + column // 2) % 4])
        for (row, family), (column, rope) in itertools.product(enumerate(FAMILIES), enumerate(ROPES))
    ],
)
def test_merged_is_unmerged(
    shape_of: Callable[..., Shape], family: str, rope: str, lora: str, tied: bool, head_dim: int
) -> None:
    shape = shape_of(family, tied, head_dim)
    model = LocalModelConfig(name=str(shape.folder), device="cpu", dtype=Dtype.float32)
    generation = GenerationConfig(max_new_tokens=3)
    outcomes = [
        ask(make_spec(model=model, lora=choice, rope=ROPES[rope], generation=generation), BaseModelCache())
        for choice in (shape.lora(lora), shape.lora(lora, merge=True))
    ]
    (adapted, adapted_logits, _), (merged, merged_logits, _) = outcomes
    torch.testing.assert_close(adapted_logits, merged_logits, atol=1e-4, rtol=0)
    own = {key: value for key, value in merged.metrics.items() if key.startswith("lora_")}
    assert own == {key: value for key, value in adapted.metrics.items() if key.startswith("lora_")}
    without = adapted.metrics["weight_mib"] - 4 * lora_parameters(shape.config, lora) / 2**20
    assert merged.metrics["weight_mib"] == pytest.approx(without)


# ------------------------------------------------------------------------------------- errors
# before the load


@pytest.fixture
def damaged(saved_family: Callable[..., Path], tmp_path: Path) -> Path:
    """A Llama with unreadable weights: an error about anything else came before they were read."""
    folder = tmp_path / "damaged"
    shutil.copytree(saved_family("llama"), folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


def test_damaged_weights_are_said_where_nothing_else_is_wrong(damaged: Path) -> None:
    with raises(ConfigError, "damaged"):
        load_base(make_spec(model=LocalModelConfig(name=str(damaged), device="cpu")))


@pytest.mark.parametrize("quantization", [name for name in QUANTIZATIONS if name != "none"])
@pytest.mark.parametrize("lora", ["peft", "pth"])
def test_merging_into_quantized_weights(damaged: Path, lora: str, quantization: str) -> None:
    kind = PeftConfig if lora == "peft" else PthConfig
    with raises(ConfigError, "missing"):
        make_spec(
            model=LocalModelConfig(name=str(damaged)),
            quantization=QUANTIZATIONS[quantization],
            lora=kind(path="x", merge=True),
        )


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("quantization", "rope"), [*zip(QUANTIZATIONS, itertools.cycle(("native", "rope_2d", "yarn")))]
)
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("peft-size", "mismatch"),
        ("pth-size", "mismatch"),
        ("pth-rank", "mismatch"),
        ("pth-elsewhere", "not_found"),
        ("pth-zero", "no_effect"),
        ("pth-missing", "not_found"),
    ],
)
def test_adapters_that_do_not_fit(
    damaged: Path,
    shape_of: Callable[..., Shape],
    tmp_path: Path,
    wrong: str,
    code: Code,
    quantization: str,
    rope: str,
) -> None:
    if "torchao" in QUANTIZATIONS[quantization].library.packages and find_spec("torchao") is None:
        pytest.skip("the optional torchao is not installed")
    other, file = shape_of("llama", False, 128), str(tmp_path / "lora.pth")
    a, b = torch.ones(RANK, 128), torch.ones(128, RANK)
    torch.save({"h.0.attn.lora.A.weight": a, "h.0.attn.lora.B.weight": b, "h.1.attn.lora.A.weight": a, "h.1.attn.lora.B.weight": b}, file)  # fmt: skip
    zero = save_pth(tmp_path / "zero.pth", settings("llama"), RANK, scale=0)
    lora = {
        "peft-size": PeftConfig(path=str(other.peft)),
        "pth-size": PthConfig(path=str(other.pth)),
        "pth-rank": PthConfig(path=str(shape_of("llama", False, 64).pth), rank=8),
        "pth-elsewhere": PthConfig(path=file),
        "pth-zero": PthConfig(path=str(zero)),
        "pth-missing": PthConfig(path=str(tmp_path / "nowhere.pth")),
    }[wrong]
    model = LocalModelConfig(name=str(damaged), device="cpu")
    with pytest.raises(ConfigError) as raised:
        load_base(
            make_spec(model=model, lora=lora, quantization=QUANTIZATIONS[quantization], rope=ROPES[rope])
        )
    assert raised.value.code == code
    assert "lora." in str(raised.value)


@pytest.mark.parametrize("rope", [name for name in ROPES if name != "native"])
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_a_model_without_rotary_embedding(
    saved_family: Callable[..., Path], tmp_path: Path, rope: str, quantization: str
) -> None:
    from transformers import GPT2Config

    shutil.copytree(saved_family("llama"), tmp_path / "gpt2")
    config = GPT2Config(vocab_size=259, n_positions=64, n_embd=64, n_layer=1, n_head=2, architectures=["GPT2LMHeadModel"])  # fmt: skip
    config.save_pretrained(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "model.safetensors").write_bytes(b"no weights")
    model = LocalModelConfig(name=str(tmp_path / "gpt2"), device="cpu")
    with raises(ConfigError, "unsupported", "rope") as raised:
        load_base(make_spec(model=model, rope=ROPES[rope], quantization=QUANTIZATIONS[quantization]))
    assert raised.value.value == rope


@pytest.mark.parametrize(
    "quantization", [GptqConfig(), AwqConfig(), GgufConfig()], ids=lambda choice: choice.name
)
@pytest.mark.parametrize("rope", ["native", "rope_2d"])
def test_a_checkpoint_that_is_not_quantized_already(
    damaged: Path, quantization: QuantizationConfig, rope: str
) -> None:
    spec = make_spec(model=LocalModelConfig(name=str(damaged)), quantization=quantization, rope=ROPES[rope])
    with raises(ConfigError, "mismatch") as refused:
        load_base(spec)
    assert "cannot be loaded" not in str(refused.value)
