"""Real tiny models, real bitsandbytes kernels on the CPU, a real PEFT adapter."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from opening import adapt, load_base, make_spec
from raising import raises
from safetensors.torch import load_file, save_file

from runner_base import processor
from runner_base.dtypes import Dtype
from runner_base.errors import Code, ConfigError
from runner_base.notes import note
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.adapter_lifecycle import detach_adapter
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.load_target import find_input_device, select_device, select_torch_dtype
from runner_engine.models.lora.unmerged import SingleAdapterMatrices
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Fp4Config, Int8Config, Nf4Config
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.spec import ModelSpec

IDS = torch.arange(3, 40)[None]


def load(spec: ModelSpec) -> LoadedModel:
    return adapt(load_base(spec), spec)


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model(IDS).logits.float()


def test_plain_load_reports_what_is_there(tiny_model: LocalModelConfig) -> None:
    loaded = load(make_spec(model=tiny_model))
    parameters = sum(p.numel() for p in loaded.model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in loaded.model.buffers())
    assert loaded.metrics["parameters"] == parameters
    assert loaded.metrics["weight_mib"] == pytest.approx((parameters * 4 + buffers) / 2**20)
    assert loaded.metrics["quantized_modules"] == 0
    assert loaded.facts["architecture"] == "LlamaForCausalLM"
    assert loaded.facts["device"] == "cpu"
    assert loaded.facts["rope"].startswith("default")
    assert not loaded.model.training


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("quantization", "bits", "tolerance"),
    [
        (Int8Config(), 8, 0.02),
        (Nf4Config(), 4, 0.11),
        (Fp4Config(), 4, 0.15),
        (Nf4Config(double_quant=False), 4, 0.11),
    ],
    ids=["int8", "nf4", "fp4", "nf4-single"],
)
def test_quantization_is_really_on(
    tiny_model: LocalModelConfig, quantization: QuantizationConfig, bits: int, tolerance: float
) -> None:
    model = dataclasses.replace(tiny_model, dtype=Dtype.bfloat16)
    plain = load(make_spec(model=model))
    loaded = load(make_spec(model=model, quantization=quantization))
    linears = [m for n, m in plain.model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    assert loaded.metrics["quantized_modules"] == len(linears) == 14
    saved = sum(m.weight.numel() for m in linears) * (16 - bits) / 8 / 2**20
    kept = loaded.metrics["weight_mib"] - (plain.metrics["weight_mib"] - saved)
    assert 0 < kept < 0.02, "the scales, and nothing else, come on top"
    # one layer, not the logits: a random model multiplies a small error from layer to layer
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        exact, rough = (m.model.model.layers[0].mlp.gate_proj(x).float() for m in (plain, loaded))
    assert 0 < (rough - exact).norm() / exact.norm() < tolerance
    assert torch.isfinite(logits(loaded)).all()


@pytest.mark.parametrize(
    "quantization", [QuantizationConfig(), Nf4Config(), Int8Config()], ids=lambda held: held.name
)
def test_an_incomplete_checkpoint_is_refused_instead_of_filled_with_random_weights(
    tmp_path: Path, tiny_model: LocalModelConfig, quantization: QuantizationConfig
) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(tiny_model.name, folder)
    weights = load_file(folder / "model.safetensors")
    left_out = ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    save_file({name: weights[name] for name in weights if name not in left_out}, folder / "model.safetensors")
    spec = make_spec(model=dataclasses.replace(tiny_model, name=str(folder)), quantization=quantization)
    with raises(ConfigError, "damaged") as raised:
        load(spec)
    assert ", ".join(left_out) in raised.value.reason


def test_stored_weights_that_the_model_has_no_use_for_are_said(
    tmp_path: Path, tiny_model: LocalModelConfig
) -> None:
    folder = tmp_path / "fewer_layers"
    shutil.copytree(tiny_model.name, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 1, "layer_types": None}))
    loaded = load(make_spec(model=dataclasses.replace(tiny_model, name=str(folder))))
    [unused] = [one for one in loaded.notes if one.code == "unused_tensors"]
    assert "model.layers.1.input_layernorm.weight" in str(unused.values["tensors"])
    assert "unused_tensors" not in {one.code for one in load(make_spec(model=tiny_model)).notes}


def test_layers_that_bitsandbytes_cannot_pack_have_the_same_results_as_without_packing(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor is taken for one with AVX-512 with bfloat16, where the library packs layers."""
    from bitsandbytes.nn import modules
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        head_dim=20,
        intermediate_size=72,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    job = make_spec(
        model=LocalModelConfig(name=str(tmp_path), dtype=Dtype.bfloat16), quantization=Nf4Config()
    )
    monkeypatch.setattr(processor, "has_bfloat16_matmul", lambda: False)
    expected = load(job)
    monkeypatch.setattr(processor, "has_bfloat16_matmul", lambda: True)
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    loaded = load(job)
    layers = [one for one in loaded.model.modules() if isinstance(one, modules.Linear4bit)]
    assert len(layers) == 7
    assert torch.equal(logits(loaded), logits(expected))
    assert not any(
        getattr(state, "packing_format_for_cpu", False)
        for state in (getattr(one.weight, "quant_state") for one in layers)  # noqa: B009
    )
    assert loaded.metrics["quantized_modules"] == expected.metrics["quantized_modules"] == 7
    if native.load_kernels() is not None:
        found = QuantizedLayers(loaded.model, HeapTrimmer())
        assert len(found.replaced_layers) == 5, "o_proj and down_proj have inputs that are no whole blocks"
        kinds = {found.matrices[one].matrix.kind for one in found.replaced_layers}
        assert kinds == {WeightFormat.four_bit_rows}


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    # peft's own
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.thorough
def test_peft_is_really_on_and_merging_changes_nothing_more(
    tiny_model: LocalModelConfig, adapter: Path
) -> None:
    plain = load(make_spec(model=tiny_model))
    adapted = load(make_spec(model=tiny_model, lora=PeftConfig(path=str(adapter))))
    merged = load(make_spec(model=tiny_model, lora=PeftConfig(path=str(adapter), merge=True)))
    assert adapted.metrics["lora_modules"] == 4
    assert adapted.metrics["lora_rank"] == 4
    deltas = [
        (own.B.weight @ own.A.weight * 2).square().sum()
        for own in adapted.model.modules()
        if isinstance(own, SingleAdapterMatrices)
    ]
    assert len(deltas) == 4
    assert adapted.metrics["lora_delta_norm"] == pytest.approx(float(sum(deltas)) ** 0.5, rel=1e-4)
    assert (logits(adapted) - logits(plain)).abs().max() > 0.01
    assert (logits(adapted) - logits(merged)).abs().max() < 1e-4
    assert "lora_modules" in merged.metrics


def test_an_adapter_leaves_nothing_behind(tiny_model: LocalModelConfig, adapter: Path) -> None:
    plain, adapted = (
        make_spec(model=tiny_model),
        make_spec(model=tiny_model, lora=PeftConfig(path=str(adapter))),
    )
    merged = make_spec(model=tiny_model, lora=PeftConfig(path=str(adapter), merge=True))
    base = load_base(plain)
    before = logits(adapt(base, plain))
    for _ in range(2):
        loaded = adapt(base, adapted)
        assert not torch.equal(logits(loaded), before)
        assert detach_adapter(loaded, adapted)
        assert torch.equal(logits(adapt(base, plain)), before), "bit for bit"
    assert not detach_adapter(adapt(base, merged), merged), "merging cannot be undone"


def test_peft_over_4_bit(tiny_model: LocalModelConfig, adapter: Path) -> None:
    loaded = load(make_spec(model=tiny_model, quantization=Nf4Config(), lora=PeftConfig(path=str(adapter))))
    assert loaded.metrics["quantized_modules"] == 14
    assert loaded.metrics["lora_modules"] == 4
    assert torch.isfinite(logits(loaded)).all()


def test_an_adapter_for_another_base_is_named(
    tiny_model: LocalModelConfig, adapter: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    settings = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "org/other"})
    )
    loaded = load(make_spec(model=tiny_model, lora=PeftConfig(path=str(other))))
    [other_base] = [one for one in loaded.notes if one.code == "made_for_another_base"]
    assert other_base.values["made_for"] == "org/other"


def test_an_adapter_that_does_not_fit_or_does_nothing(
    tiny_model: LocalModelConfig, adapter: Path, tmp_path: Path
) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    for name, change in {
        "zero": lambda key, w: torch.zeros_like(w) if "lora_B" in key else w,
        "size": lambda key, w: w[:, :-1].contiguous() if "lora_A" in key else w,
    }.items():
        folder = tmp_path / name
        shutil.copytree(adapter, folder)
        changed = {key: change(key, weight) for key, weight in weights.items()}
        save_file(changed, folder / "adapter_model.safetensors")
        code: Code = "no_effect" if name == "zero" else "mismatch"
        with pytest.raises(ConfigError) as raised:
            load(make_spec(model=tiny_model, lora=PeftConfig(path=str(folder))))
        assert raised.value.code == code
        assert str(raised.value).startswith(f"lora.path={folder} ")


def test_device_dtype_and_attention(tiny_model: LocalModelConfig) -> None:
    if not torch.cuda.is_available():
        with raises(ConfigError, "not_found", "model.device"):
            select_device("cuda:3")
    half = {"dtype": "float16"}
    dtype, notes = select_torch_dtype("bfloat16", Dtype.auto, half)
    assert dtype is torch.bfloat16
    assert notes == [note("slow_dtype", stored="float16", used="bfloat16")]
    assert select_torch_dtype("float16", Dtype.float16, half) == (torch.float16, [])
    eager = load(make_spec(model=dataclasses.replace(tiny_model, attention=Attention.eager)))
    assert eager.facts["attention"] == "eager"


def test_flash_attention_falls_back_and_says_so(tiny_model: LocalModelConfig) -> None:
    if torch.cuda.is_available():
        pytest.skip("flash attention may run here")
    loaded = load(make_spec(model=dataclasses.replace(tiny_model, attention=Attention.flash_attention_2)))
    assert loaded.facts["attention"] == "sdpa"
    assert note("other_attention", missing=note("no_cuda_gpu"), used="sdpa") in loaded.notes


def test_a_limit_for_a_gpu_that_is_not_there_is_left_out(tiny_model: LocalModelConfig) -> None:
    places = {"0": "3GB", "97": "3GB", "cpu": "8GB"}
    model = dataclasses.replace(tiny_model, device="auto", device_map="auto", max_memory=places)
    (absent,) = [one for one in load_base(make_spec(model=model)).notes if one.code == "absent_gpus"]
    assert "GPU 97" in str(absent.values["gpus"])


def test_device_map_auto(tiny_model: LocalModelConfig) -> None:
    model = dataclasses.replace(tiny_model, device="auto", device_map="auto", max_memory={"cpu": "2GB"})
    spread, plain = load(make_spec(model=model)), load(make_spec(model=tiny_model))
    if not torch.cuda.is_available():
        assert spread.facts["device"] == "cpu"
        assert torch.equal(logits(spread), logits(plain))


def test_weights_that_are_no_weights(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_llama, folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 50)
    with raises(ConfigError, "damaged"):
        load(make_spec(model=LocalModelConfig(name=str(folder))))


def test_prompts_go_in_where_an_offloaded_embedding_computes() -> None:
    embedding = torch.nn.Embedding(4, 4, device="meta")
    model = SimpleNamespace(get_input_embeddings=lambda: embedding)
    assert find_input_device(model) == torch.device("cpu")
    embedding._hf_hook = SimpleNamespace(execution_device=1)  # type: ignore[assignment]
    assert find_input_device(model) == torch.device("cuda", 1)
    embedding = torch.nn.Embedding(4, 4)
    assert find_input_device(model) == torch.device("cpu")
