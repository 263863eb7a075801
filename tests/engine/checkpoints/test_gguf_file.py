"""A real .gguf file, written with the gguf package from a real tiny Llama, equals the model that it
was made from."""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from families import save_pth
from opening import adapt, check_format, load_base, make_spec, predict
from raising import raises
from tiny_gguf import TEMPLATE, TOKENS, save_original, write
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from runner_base.dtypes import Dtype
from runner_base.errors import Code, ConfigError
from runner_base.notes import note
from runner_engine.checkpoints import gguf_file, model_files
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.models.base_loading import LoadedModel
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.quantization.gguf import GgufConfig
from runner_engine.settings.lora import PthConfig
from runner_engine.settings.model import LocalConfig, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig, RopeLinearConfig
from runner_engine.spec import ModelSpec

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untied Llama with grouped heads and a byte-level tokenizer with merges, as transformers
    saves them."""
    return save_original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def files(original: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as .gguf files, whole and in blocks."""
    folder, model = tmp_path_factory.mktemp("gguf"), LlamaForCausalLM.from_pretrained(original)
    return {kind: write(folder / f"{kind}.gguf", model, kind) for kind in ("F32", "Q8_0")}


def configure(path: Path, dtype: Dtype = Dtype.auto, unpacked: bool = False, **groups: Any) -> ModelSpec:
    quantization = GgufConfig(dequantize=unpacked) if path.suffix == ".gguf" else QuantizationConfig()
    model = LocalConfig(name=str(path), device="cpu", dtype=dtype)
    return make_spec(**{"model": model, "quantization": quantization} | groups)


def load(path: Path, dtype: Dtype = Dtype.auto, unpacked: bool = False, **groups: Any) -> LoadedModel:
    spec = configure(path, dtype, unpacked, **groups)
    return adapt(load_base(spec), spec)


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model(IDS).logits.float()


def test_whole_numbers_are_the_original_bit_for_bit(original: Path, files: dict[str, Path]) -> None:
    plain, loaded = load(original), load(files["F32"])
    assert torch.equal(logits(loaded), logits(plain))
    assert loaded.metrics["quantized_modules"] == 0
    assert loaded.metrics["weight_mib"] == plain.metrics["weight_mib"]
    assert loaded.facts["checkpoint"] == "gguf: F32 ×21"
    unpacked = note("unpacked_while_loading", file="F32.gguf", types="F32 ×21", dtype="float32")
    assert loaded.notes[0] == unpacked


def test_unpacked_blocks_are_close_to_it(original: Path, files: dict[str, Path]) -> None:
    plain, loaded = load(original), load(files["Q8_0"], unpacked=True)
    for name, weight in plain.model.state_dict().items():
        blocks = weight.reshape(-1, 32)
        # norms are not packed
        step = blocks.abs().amax(dim=1, keepdim=True) / 127 * (weight.ndim == 2)
        # half a step of 8 bits, and what float16 rounds off the step itself
        assert (
            (loaded.model.state_dict()[name].reshape(-1, 32) - blocks).abs()
            <= step * 0.5 + step * 127 / 2**11
        ).all()
    assert 0 < (logits(loaded) - logits(plain)).norm() / logits(plain).norm() < 0.06, (
        "within 6 % in a random model"
    )
    assert loaded.bytes_by_dtype.keys() == {"float32"}, "nothing stays in blocks"
    assert loaded.facts["checkpoint"] == "gguf: Q8_0 ×16, F32 ×5"
    assert loaded.facts["quantized"] == "none, unpacked from Q8_0 ×16, F32 ×5"
    half = load(files["Q8_0"], Dtype.bfloat16, unpacked=True)
    assert half.metrics["weight_mib"] == pytest.approx(loaded.metrics["weight_mib"] / 2, rel=0.001)
    assert half.notes[0].values["dtype"] == "bfloat16"


def test_kept_blocks_give_the_logits_of_unpacked_ones(files: dict[str, Path]) -> None:
    kept, loaded = load(files["Q8_0"]), load(files["Q8_0"], unpacked=True)
    assert torch.equal(logits(kept), logits(loaded))
    assert kept.metrics["parameters"] == loaded.metrics["parameters"]
    assert kept.metrics["quantized_modules"] == 15
    shares = "99.7 % of the parameters, 99 % of the bytes"
    assert kept.facts["quantized"] == f"gguf: {shares} (15 of 15 linear layers: 15 GgufLinear)"
    assert kept.metrics["weight_mib"] < loaded.metrics["weight_mib"] * 0.28
    assert kept.metrics["weight_mib"] <= files["Q8_0"].stat().st_size / 2**20
    assert "unpacked_while_loading" not in {one.code for one in kept.notes}


def test_an_adapter_or_a_gpu_gets_unpacked_weights(files: dict[str, Path], tmp_path: Path) -> None:
    spec = configure(files["Q8_0"])
    assert resolve_model(spec).quantization_mix.base.packed
    adapted = configure(files["Q8_0"], lora=PthConfig(path=str(tmp_path / "lora.pth")))
    assert not resolve_model(adapted).quantization_mix.base.packed
    mapped = make_spec(
        model=LocalConfig(name=str(files["Q8_0"]), device_map="auto"), quantization=GgufConfig()
    )
    assert not resolve_model(mapped).quantization_mix.base.packed
    whole = configure(files["F32"])
    assert not resolve_model(whole).quantization_mix.base.packed
    assert spec.base_key != adapted.base_key


def test_rows_in_8_bits_need_blocks(files: dict[str, Path], tmp_path: Path) -> None:
    in_bytes = GgufConfig(int8_activations=True)
    spec = configure(files["Q8_0"], quantization=in_bytes)
    assert resolve_model(spec).quantization_mix.base.describe_matmul_costs(4).may_round_rows
    plain = configure(files["Q8_0"])
    assert not resolve_model(plain).quantization_mix.base.describe_matmul_costs(4).may_round_rows
    with raises(ConfigError, "conflict", "quantization.int8_activations"):
        GgufConfig(dequantize=True, int8_activations=True)
    adapted = configure(files["Q8_0"], quantization=in_bytes, lora=PthConfig(path=str(tmp_path / "lora.pth")))
    with raises(ConfigError, "unsupported", "quantization.int8_activations"):
        assert resolve_model(adapted).quantization_mix
    found, expected = (logits(load(files["Q8_0"], quantization=in_bytes)), logits(load(files["Q8_0"])))
    assert not torch.equal(found, expected)
    assert (found - expected).abs().mean() < 0.05 * expected.std()


def test_a_scale_that_is_no_number_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    content = bytearray(files["Q8_0"].read_bytes())
    tensor = next(
        one for one in gguf_file.read_gguf_header(files["Q8_0"]).tensors if one.name == "blk.1.ffn_up.weight"
    )
    content[tensor.offset + 34 : tensor.offset + 36] = struct.pack("<H", 0x7E00)
    (tmp_path / "nan.gguf").write_bytes(content)
    with raises(ConfigError, "damaged") as raised:
        load(tmp_path / "nan.gguf")
    assert "blk.1.ffn_up.weight" in raised.value.reason


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("dtype", [Dtype.auto, Dtype.bfloat16])
@pytest.mark.parametrize("unpacked", [True, False])
def test_its_size_is_known_from_its_header(
    files: dict[str, Path], original: Path, kind: str, dtype: Dtype, unpacked: bool
) -> None:
    loaded = load(files[kind], dtype, unpacked)
    predicted = predict(configure(files[kind], dtype, unpacked), 2, 8, 8)
    assert predicted is not None
    buffers = sum(b.numel() * b.element_size() for b in loaded.model.buffers())
    assert sum(predicted.weights.values()) == sum(loaded.bytes_by_dtype.values()) - buffers
    like = predict(configure(original, dtype), 2, 8, 8)
    assert like is not None
    assert predicted.decode_kv_bytes == like.decode_kv_bytes
    assert predicted.activation_mib == like.activation_mib


def test_the_tokenizer_comes_from_the_file(original: Path, files: dict[str, Path]) -> None:
    ours, theirs = (load(files["F32"]).tokenizer, AutoTokenizer.from_pretrained(original))
    text = "<|im_start|>hello, world! äöü 1234\n  all<|im_end|>"
    assert ours(text).input_ids == theirs(text).input_ids
    assert ours.decode(ours(text).input_ids) == text
    assert (ours.pad_token_id, ours.eos_token_id, ours.padding_side) == (0, 2, "left")
    assert ours.chat_template == TEMPLATE


@pytest.mark.thorough
@pytest.mark.parametrize("rope", [RopeLinearConfig(factor=2.0), Rope2dConfig()], ids=["linear", "rope_2d"])
def test_rope_and_lora_work_on_it(original: Path, files: dict[str, Path], tmp_path: Path, rope: Any) -> None:
    plain = load(original)
    lora = PthConfig(path=str(save_pth(tmp_path / "lora.pth", plain.model.config)))
    one, two = (load(path, rope=rope, lora=lora) for path in (original, files["F32"]))
    assert one.metrics["lora_modules"] == two.metrics["lora_modules"] == 4
    assert torch.equal(logits(one), logits(two))
    assert not torch.equal(logits(one), logits(plain))


@pytest.mark.thorough
def test_a_user_completes_with_it(runner: Callable[..., Any], files: dict[str, Path]) -> None:
    name = f"model.name={files['Q8_0']}"
    common = (
        "quantization=gguf",
        "quantization.dequantize=true",
        "task=generate",
        "task.prompt=hello",
        "generation.max_new_tokens=4",
    )
    done = runner("model=local", name, *common, "tracking=none", "print=json")
    assert done.code == 0, done.err
    assert "is dequantized while loading. In memory, the weights have the full size of float32" in done.err
    assert done.json()["metrics"]["quantized_modules"] == 0
    kept = runner("model=local", name, "quantization=gguf", *common[2:], "tracking=none", "print=json")
    assert kept.code == 0, kept.err
    assert kept.json()["metrics"]["quantized_modules"] == 15
    assert kept.json()["completions"] == done.json()["completions"]


# ----------------------------------------------------------------------------------------- refusals


def _overlapping(whole: bytes) -> bytes:
    """The second tensor begins where the first one does."""
    at = whole.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 2 * 8 + 4
    return whole[:at] + struct.pack("<Q", 0) + whole[at + 8 :]


def test_what_is_no_gguf_file(files: dict[str, Path], tmp_path: Path) -> None:
    whole = files["Q8_0"].read_bytes()
    sizes = [3, 4, 20, 200, len(whole) // 8, len(whole) - 300]
    broken: dict[str, tuple[bytes, Code]] = {f"cut{size}.gguf": (whole[:size], "damaged") for size in sizes}
    broken |= {
        "magic.gguf": (b"GGML" + whole[4:], "damaged"),
        "empty.gguf": (b"", "damaged"),
        "version.gguf": (whole[:4] + struct.pack("<I", 1) + whole[8:], "unsupported"),
        "count.gguf": (whole[:8] + struct.pack("<Q", 2**60) + whole[16:], "damaged"),
        "overlap.gguf": (_overlapping(whole), "damaged"),
        "end.gguf": (whole[:-300], "damaged"),
    }
    for name, (content, code) in broken.items():
        (tmp_path / name).write_bytes(content)
        with raises(ConfigError, code, tmp_path / name):
            check_format(configure(tmp_path / name))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    strange = write(tmp_path / "strange.gguf", model, "F32", "mystery")
    with raises(ConfigError, "unsupported"):
        load(strange)


def test_what_does_not_go_together(
    files: dict[str, Path], original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = files["F32"]
    cases: list[tuple[ModelSpec, Code, str]] = [
        (configure(file, quantization=Nf4Config()), "unsupported", ""),
        (configure(file, quantization=QuantizationConfig()), "unsupported", ""),
        (configure(original, quantization=GgufConfig()), "mismatch", ""),
        (configure(file.parent), "ambiguous", "model.name"),
        (configure(tmp_path / "no.gguf"), "not_found", "model.name"),
        (make_spec(model=LocalModelConfig(name="some/no.gguf"), quantization=GgufConfig()), "not_found", "model.name"),
        (make_spec(model=LocalModelConfig(name="embedded"), quantization=GgufConfig()), "mismatch", ""),
    ]  # fmt: skip
    for config, code, key in cases:
        with raises(ConfigError, code, key):
            check_format(config)
    monkeypatch.setitem(sys.modules, "gguf", None)  # as if it were not installed
    with raises(ConfigError, "needs_package"):
        load(file)


# ----------------------------------------------------------------------------------------- identity


def test_what_decides_the_answers_is_hashed(files: dict[str, Path], original: Path, tmp_path: Path) -> None:
    cache = tmp_path / "hashes.json"
    copies = [tmp_path / folder / name for folder, name in (("a", "one.gguf"), ("b", "two.gguf"))]
    for copy in copies:
        copy.parent.mkdir()
        shutil.copy(files["F32"], copy)
    first, second = (model_files.hash_model_files(copy, cache) for copy in copies)
    assert first == second, "the name does not count"
    (copies[0].parent / "notes.txt").write_text("not the model's")
    shutil.copy(files["Q8_0"], copies[0].parent)
    assert model_files.hash_model_files(copies[0], cache) == first, "nor do other files"
    shutil.copy(original / "tokenizer.json", copies[0].parent)
    assert model_files.hash_model_files(copies[0], cache) != first, (
        "transformers prefers this tokenizer to the file's own"
    )
    content = bytearray(copies[1].read_bytes())
    content[-1] ^= 1
    copies[1].write_bytes(content)
    assert model_files.hash_model_files(copies[1], cache) != second


def test_the_table_of_blocks_is_the_formats_own() -> None:
    known = {kind.value: (kind.name, *size) for kind, size in gguf.constants.GGML_QUANT_SIZES.items()}
    assert gguf_file.BLOCKS.items() <= known.items()
    assert len(gguf_file.BLOCKS) >= 30


def test_long_lists_and_lists_by_layer(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "lfm2")
    writer.add_token_list([f"token {number}" for number in range(5000)])
    writer.add_token_scores([0.5] * 5000)
    writer.add_array("lfm2.attention.head_count_kv", [0, 0, 8, 0])
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), dtype=np.float16))
    writer.add_tensor("output_norm.weight", np.zeros(8, dtype=np.float32))
    for step in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        step()
    header = gguf_file.read_gguf_header(tmp_path / "x.gguf")
    settings = gguf_file.read_gguf_settings(header)
    assert (settings["vocab_size"], settings["num_key_value_heads"], settings["dtype"]) == (
        5000,
        8,
        "float16",
    )
    assert [(tensor.name, tensor.shape) for tensor in header.tensors] == [
        ("token_embd.weight", (4, 8)),
        ("output_norm.weight", (8,)),
    ]
