"""The predicted memory against what transformers and bitsandbytes really allocate."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opening import make_spec
from opening import predict as predict_for
from raising import raises

from runner_base.dtypes import Dtype
from runner_base.errors import DataError
from runner_engine.checkpoints import weight_files, weight_sizes
from runner_engine.checkpoints.pass_memory import read_layer_dimensions
from runner_engine.checkpoints.resolved_model import read_tensor_headers, resolve_model
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.plan import footprint
from runner_engine.plan.footprint import Footprint, Phase
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Fp4Config, Int8Config, Nf4Config
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import Attention, LocalModelConfig

Saved = Callable[..., Path]  # the fixture `saved_family`


def predict(folder: Path, **groups: Any) -> Footprint:
    model = LocalModelConfig(name=str(folder), dtype=groups.pop("dtype", Dtype.auto))
    predicted = predict_for(make_spec(model=model, **groups), 4, 16, 8)
    assert predicted is not None
    return predicted


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unquantized_weights_are_exact(saved_family: Saved, tied: bool, dtype: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = saved_family(tied=tied, dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    actual = sum(p.numel() * p.element_size() for p in model.parameters())  # tied ones once
    assert sum(predict(folder).weights.values()) == actual


def test_model_dtype_overrides_the_checkpoint(saved_family: Saved) -> None:
    folder = saved_family()
    whole, half = (predict(folder, dtype=dtype) for dtype in (Dtype.auto, Dtype.bfloat16))
    assert half.weight_mib == whole.weight_mib / 2
    assert half.kv_cache_mib == whole.kv_cache_mib / 2


QUANTIZED = [Int8Config(), Nf4Config(), Nf4Config(double_quant=False), Fp4Config()]


@pytest.mark.parametrize("quantization", QUANTIZED, ids=["int8", "nf4", "nf4-single", "fp4"])
@pytest.mark.parametrize("tied", [False, True])
def test_quantized_weights_within_two_percent(
    saved_family: Saved, quantization: QuantizationConfig, tied: bool
) -> None:
    from transformers import AutoModelForCausalLM

    from runner_engine.models.inventory import count_weight_nbytes

    folder = saved_family(tied=tied)
    model = AutoModelForCausalLM.from_pretrained(
        folder, **quantization.build_load_arguments(), dtype="auto", device_map={"": "cpu"}
    )
    actual = sum(count_weight_nbytes(model).values())
    predicted = sum(predict(folder, quantization=quantization).weights.values())
    assert predicted == pytest.approx(actual, rel=0.02)


def test_kv_cache_is_what_the_cache_holds(saved_family: Saved) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = saved_family()
    model = AutoModelForCausalLM.from_pretrained(folder)
    cache = model(torch.zeros(4, 24, dtype=torch.long), use_cache=True).past_key_values
    actual = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    predicted = predict(folder)  # 4 rows of 16 + 8 tokens
    assert predicted.decode_kv_bytes == actual
    assert predicted.prefill_kv_bytes == actual * 16 // 24
    in_bytes = predict(folder, generation=GenerationConfig(max_new_tokens=8, kv_cache=KvCache.int8))
    dim = model.config.head_dim
    assert in_bytes.decode_kv_bytes == actual * (dim + 4) // (dim * cache.layers[0].keys.element_size())


def test_total_is_the_largest_stage() -> None:
    sizes = Footprint({"linear": 10}, 1, 3, prefill_activation_bytes=7, decode_activation_bytes=2)
    assert sizes.total_mib == sizes.prefill_mib == 18 / 2**20
    assert sizes.decode_mib == 15 / 2**20
    resident = replace(
        sizes, unread_bytes=4, copied_bytes=1, runtime_bytes=5, load_bytes=19, first_pass_bytes=30
    )
    assert resident.resident_weight_mib == 7 / 2**20
    assert resident.prefill_mib == 20 / 2**20
    assert resident.total_mib == resident.first_pass_mib == 30 / 2**20


@pytest.mark.parametrize(
    ("sizes", "phase"),
    [
        ({}, Phase.prefill),
        ({"decode_activation_bytes": 6}, Phase.decode),
        ({"load_bytes": 100}, Phase.load),
        ({"first_pass_bytes": 100}, Phase.packing),
    ],
)
def test_the_parts_of_the_peak_add_up_to_it(sizes: dict[str, int], phase: Phase) -> None:
    """Keys and values are the most in decoding, and activations in prefill: never at one time."""
    whole = Footprint({"linear": 10}, 1, 3, 7, 2, runtime_bytes=5)
    predicted = replace(whole, **sizes)  # type: ignore[arg-type]
    peak = predicted.peak_memory_breakdown
    assert peak.phase is phase
    parts = peak.weight_mib + peak.kv_cache_mib + peak.activation_mib + peak.other_mib
    assert parts == pytest.approx(predicted.total_mib)


@pytest.mark.parametrize(
    ("rows", "prompt_tokens", "read"), [(64, 256, 4), (64, 1024, 1), (2, 4096, 1), (3, 100, 3)]
)
def test_prompts_are_read_in_passes_of_bounded_size(
    saved_family: Saved, rows: int, prompt_tokens: int, read: int
) -> None:
    """Rows that are prefilled in different passes share activations; their keys and values add
    up."""
    folder = saved_family()

    def predicted(rows: int) -> Footprint:
        found = predict_for(make_spec(model=LocalModelConfig(name=str(folder))), rows, prompt_tokens, 8)
        assert found is not None
        return found

    assert predicted(rows).prefill_activation_bytes == predicted(read).prefill_activation_bytes
    assert (
        predicted(rows).prefill_activation_bytes > predicted(read - 1).prefill_activation_bytes or read == 1
    )
    assert predicted(rows).decode_kv_bytes == rows * predicted(1).decode_kv_bytes


def test_where_weights_are(saved_family: Saved) -> None:
    """A packed copy replaces the mapped weight; a converted weight and a tied head stay in addition
    to their copies."""

    def predicted(free_mib: float = 1e6, attention: Attention = Attention.auto, dtype: Dtype = Dtype.auto,
                  tied: bool = False) -> Footprint:  # fmt: skip
        model = LocalModelConfig(
            name=str(saved_family(tied=tied)), dtype=dtype, attention=attention, device="cpu"
        )
        spec = make_spec(model=model)
        found = footprint.predict_footprint(resolve_model(spec), (1, 8, 8), free_mib)
        assert found is not None
        return found

    plain = predicted()
    # slots of a tokenizer's table
    least = int(footprint.LOAD_MIB * 2**20) + footprint.TOKENIZER_LOAD_BYTES * 512
    assert (plain.copied_bytes, plain.load_bytes) == (0, least)
    assert 0 < plain.unread_bytes < plain.weights["embedding"]
    tied = predicted(tied=True)
    assert tied.copied_bytes == tied.weights["embedding"]
    converted = predicted(dtype=Dtype.bfloat16)
    assert converted.copied_bytes == converted.weights["linear"] + converted.weights["head"]
    assert converted.load_bytes == sum(converted.weights.values()) + least
    for not_packed in (predicted(free_mib=0.0, tied=True), predicted(attention=Attention.sdpa, tied=True)):
        assert not_packed.copied_bytes == not_packed.unread_bytes == 0
        assert not_packed.runtime_bytes < tied.runtime_bytes


def test_a_large_table_is_not_read_where_its_tied_head_is_packed(
    saved_family: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are taken from the head's panels."""

    def unread(tied: bool) -> float:
        spec = make_spec(model=LocalModelConfig(name=str(saved_family(tied=tied)), device="cpu"))
        found = footprint.predict_footprint(resolve_model(spec), (1, 8, 8), 1e6)
        assert found is not None
        return found.unread_bytes / found.weights["embedding"]

    assert unread(tied=True) < 1, "a small one is read where it is"
    monkeypatch.setattr(footprint, "SHARED_BYTES", 1)
    assert unread(tied=True) == 1
    assert unread(tied=False) < 1


def test_a_head_that_is_stored_although_tied_counts_once() -> None:
    tensors = [
        TensorLocation("model.embed_tokens.weight", "F32", (8, 4), Path("model.safetensors"), 0, 128),
        TensorLocation("lm_head.weight", "F32", (8, 4), Path("model.safetensors"), 0, 128),
    ]
    tied = weight_sizes.compute_weight_nbytes(tensors, {"tie_word_embeddings": True}, None, {}, 4)
    untied = weight_sizes.compute_weight_nbytes(tensors, {"tie_word_embeddings": False}, None, {}, 4)
    assert (sum(tied.values()), sum(untied.values())) == (128, 256)


def test_weights_that_were_quantized_before_stay_as_stored() -> None:
    packed = TensorLocation(
        "model.layers.0.mlp.up_proj.weight", "U8", (64, 1), Path("model.safetensors"), 0, 64
    )
    parts = weight_sizes.compute_weight_nbytes([packed], {}, None, {}, 4)
    assert parts["linear"] == 64


def test_no_safetensors_no_prediction(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert predict_for(make_spec(model=LocalModelConfig(name=str(tmp_path))), 1, 1, 2) is None


def test_sharded_checkpoint_reads_every_file_of_its_index_and_no_other(tmp_path: Path) -> None:
    def write(name: str, tensor: str) -> None:
        header = json.dumps({tensor: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        (tmp_path / name).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)

    for name, tensor in [("a.safetensors", "a"), ("b.safetensors", "b"), ("stray.safetensors", "c")]:
        write(name, tensor)
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [tensor.name for tensor in read_tensor_headers(tmp_path)] == ["a", "b"]
    write("model.safetensors", "whole")  # as from_pretrained, which ignores the index then
    assert [tensor.name for tensor in read_tensor_headers(tmp_path)] == ["whole"]
    assert weight_files.find_weight_files_to_load(tmp_path)[1] == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, struct.pack("<Q", 4) + b"{\xff\xfe}"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with raises(DataError, "damaged", tmp_path / "model.safetensors"):
        read_tensor_headers(tmp_path)


def test_sizes_that_differ_from_layer_to_layer_count_as_the_largest() -> None:
    """Gemma 3n's intermediate_size is a list."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 10}
    assert read_layer_dimensions(sizes | {"intermediate_size": [96, 128, 96]})["intermediate"] == 128
    assert read_layer_dimensions(sizes | {"intermediate_size": 96})["intermediate"] == 96
