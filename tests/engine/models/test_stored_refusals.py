"""Damaged checkpoints of each format of stored weights, and settings that the runner does not read,
are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coded_checkpoints as coded
import grouped_checkpoints as grouped
import int8_checkpoints as int8
import pytest
import torch
from changed_checkpoints import Change, changed, with_one, without
from loading import load
from raising import raises

from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.quantization import detect_stored_format
from runner_engine.quantization.pack_quantized import PackQuantizedConfig

Saved = Callable[..., Path]
UP = "model.layers.1.mlp.up_proj"  # 128 inputs, 192 outputs


# ------------------------------------------------------------------------------------------ tensors


def with_nan(one: torch.Tensor) -> torch.Tensor:
    one.view(torch.uint8)[5, 7] = 0xFF
    return one


def at(place: Any, value: float) -> Callable[[Any], torch.Tensor]:
    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[place] = value
        return tensor

    return put


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("fp8", with_one(f"{UP}.weight", lambda one: one[:-1]), r"up_proj\.weight: shape \[191, 128\], but a layer with 128 inputs and 192 outputs needs \[192, 128\]"),
        ("fp8", with_one(f"{UP}.weight", lambda one: one.view(torch.uint8)), r"up_proj\.weight: the dtype is U8, but F8_E4M3 is expected"),
        ("fp8", with_one(f"{UP}.weight", lambda one: one.float().to(torch.float8_e5m2)), r"up_proj\.weight: the dtype is F8_E5M2, but F8_E4M3 is expected"),
        ("fp8", with_one(f"{UP}.weight", with_nan), r"up_proj\.weight: a weight is NaN"),
        ("fp8", with_one(f"{UP}.weight_scale_inv", lambda one: one.T), r"up_proj\.weight_scale_inv: shape \[4, 3\], .* needs \[3, 4\]"),
        ("fp8", with_one(f"{UP}.weight_scale_inv", lambda one: one * float("nan")), ("weight_scale_inv: a "
            "scale is not finite")),
        ("fp8", with_one(f"{UP}.weight_scale_inv", lambda one: one.int()), r"weight_scale_inv: the dtype is I32, but F16 or BF16 or F32 or F8_E8M0 or U8 is expected"),
        ("fp8", without(f"{UP}.weight_scale_inv"), r"no layer uses .*up_proj\.weight\. The checkpoint lacks the matching weight_scale_inv,"),
        ("fp8", without(f"{UP}.weight"), r"up_proj\.weight_scale_inv: the checkpoint lacks weight of this layer"),
        ("fp8_exponents", with_one(f"{UP}.weight_scale_inv", lambda one: one.view(torch.uint8) | 255), ("weight_scale_inv: "
            "a scale is not finite")),
        ("fp8_tensor", with_one(f"{UP}.weight_scale_inv", lambda one: one.repeat(192)), r"weight_scale_inv: shape \[192\], .* needs \[\] or \[1\]"),
        ("fbgemm_fp8", with_one(f"{UP}.weight_scale", lambda one: one / 0), ("up_proj\\.weight_scale: a scale "
            "is not finite")),
        ("fbgemm_fp8", without(f"{UP}.weight_scale"), r"no layer uses .*up_proj\.weight\. The checkpoint lacks the matching weight_scale,"),
        ("float_quantized", with_one(f"{UP}.weight_scale", lambda one: one[1:]), r"up_proj\.weight_scale: shape \[191, 1\], .* needs \[192, 1\] or \[192\]"),
        ("float_quantized_tensor", without(f"{UP}.input_scale"), r"up_proj\.weight: the checkpoint lacks input_scale of this layer"),
        ("float_quantized_tensor", with_one(f"{UP}.input_scale", lambda one: one * 0), r"up_proj\.input_scale: a scale is not above 0"),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_packed", lambda one: one[:, 1:]), r"up_proj\.weight_packed: shape \[192, 63\], .* needs \[192, 64\]"),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_packed", lambda one: one.int()), r"up_proj\.weight_packed: the dtype is I32, but U8 is expected"),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_scale", lambda one: one | 255), ("up_proj\\.weight_scale: "
            "a scale is not finite")),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_scale", lambda one: one[:, :1]), r"up_proj\.weight_scale: shape \[192, 1\], .* needs \[192, 4\]"),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_scale", lambda one: one * 0 + 254), ("up_proj\\.weight_scale: "
            "a dequantized weight would not be finite")),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_global_scale", lambda one: one * 0 + 1e-40), ("weight_global_scale: "
            "a dequantized weight would not be finite")),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_scale", lambda one: (one.view(torch.uint8) | 127).view(torch.float8_e4m3fn)), r"weight_scale: a scale is not finite"),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_global_scale", lambda one: one * 0), ("weight_global_scale: "
            "the layer's scale is not a finite number above 0")),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_global_scale", lambda one: one * float("nan")), r"weight_global_scale: the layer's scale is not a finite number above 0"),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_global_scale", lambda one: one.repeat(192)), r"weight_global_scale: shape \[192\], .* needs \[\] or \[1\]"),
        ("nvfp4_pack_quantized", without(f"{UP}.weight_global_scale"), r"up_proj\.weight_packed: the checkpoint lacks weight_global_scale of this layer"),
        ("nvfp4_pack_quantized", without(f"{UP}.weight_packed"), r"no layer uses .*up_proj\.weight_global_scale.*\. The checkpoint lacks the matching weight_packed,"),
        ("nvfp4_pack_quantized_rows", without(f"{UP}.input_global_scale"), r"up_proj\.weight_packed: the checkpoint lacks input_global_scale of this layer"),
        ("bitnet", with_one(f"{UP}.weight", lambda one: one | 3), r"up_proj\.weight: a code is 3, but only 0, 1 and 2 are valid"),
        ("bitnet", with_one(f"{UP}.weight", lambda one: one[1:]), r"up_proj\.weight: shape \[47, 128\], .* needs \[48, 128\]"),
        ("bitnet", with_one(f"{UP}.weight_scale", lambda one: -one), ("up_proj\\.weight_scale: the layer's "
            "scale is not a finite number above 0")),
        ("bitnet", with_one(f"{UP}.weight_scale", lambda one: one.int()), r"up_proj\.weight_scale: the dtype is I32, but F16 or BF16 or F32 is expected"),
        ("bitnet", without(f"{UP}.weight_scale"), r"no layer uses .*up_proj\.weight\. The checkpoint lacks the matching weight_scale,"),
        ("float_quantized_weights", with_one("model.layers.9.mlp.up_proj.weight_scale", lambda _: torch.ones(1)), r"layers\.9\.mlp\.up_proj\.weight_scale: the model LlamaForCausalLM has no linear layer with this name"),
        ("int8_dynamic", with_one(f"{UP}.weight", lambda one: one[:-1]), r"up_proj\.weight: shape \[191, 128\], but a layer with 128 inputs and 192 outputs needs \[192, 128\]"),
        ("int8_dynamic", with_one(f"{UP}.weight", lambda one: one.T), r"up_proj\.weight: shape \[128, 192\], but"),
        ("int8_dynamic", with_one(f"{UP}.weight", lambda one: one.view(torch.uint8)), r"up_proj\.weight: the dtype is U8, but I8 is expected"),
        ("int8_dynamic", with_one(f"{UP}.weight", lambda one: one.bfloat16()), r"up_proj\.weight: the dtype is BF16, but I8 is expected"),
        ("int8_dynamic", with_one(f"{UP}.weight_scale", lambda one: one[1:]), r"up_proj\.weight_scale: shape \[191, 1\], .* needs \[192\] or \[192, 1\]"),
        ("int8_dynamic", with_one(f"{UP}.weight_scale", lambda one: one.int()), r"up_proj\.weight_scale: the dtype is I32, but F16 or BF16 or F32 is expected"),
        ("int8_dynamic", with_one(f"{UP}.weight_scale", lambda one: one * float("nan")), ("up_proj\\.weight_scale: "
            "a scale is not finite")),
        ("int8_dynamic", with_one(f"{UP}.weight_scale", lambda one: one / 0), ("up_proj\\.weight_scale: a "
            "scale is not finite")),
        ("int8_dynamic", without(f"{UP}.weight_scale"), r"no layer uses .*up_proj\.weight\. The checkpoint lacks the matching weight_scale,"),
        ("int8_dynamic", without(f"{UP}.weight"), r"up_proj\.weight_scale: the checkpoint lacks weight of this layer"),
        ("int8_dynamic", with_one(f"{UP}.weight_zero_point", lambda _: torch.ones(192, 1, dtype=torch.int8)), ("weight_zero_point: "
            "symmetric weights must have zero points of 0")),
        ("int8_static", without(f"{UP}.input_scale"), r"up_proj\.weight: the checkpoint lacks input_scale of this layer"),
        ("int8_static", with_one(f"{UP}.input_scale", lambda one: one * 0), r"up_proj\.input_scale: a scale is not above 0"),
        ("int8_static", with_one(f"{UP}.input_scale", lambda one: one * float("inf")), r"up_proj\.input_scale: a scale is not finite"),
        ("int8_static", with_one(f"{UP}.input_scale", lambda one: one.repeat(128)), r"up_proj\.input_scale: shape \[128\], .* needs \[\] or \[1\]"),
        ("int8_static_zeros", with_one(f"{UP}.input_zero_point", lambda one: one.float()), r"up_proj\.input_zero_point: the dtype is F32, but I8 is expected"),
        ("int8_weights_only", with_one("model.layers.9.mlp.up_proj.weight_scale", lambda _: torch.ones(1)), r"layers\.9\.mlp\.up_proj\.weight_scale: the model LlamaForCausalLM has no linear layer with this name"),
        ("gptq", with_one(f"{UP}.qweight", lambda one: one[:-1]), r"up_proj\.qweight: the shape \[15, 192\] does not fit 128 inputs with 2 to 8 bits"),
        ("gptq", with_one(f"{UP}.qweight", lambda one: one[:, :-1]), r"up_proj\.qweight: shape \[16, 191\], but a layer with 128 inputs and 192 outputs"),
        ("gptq", with_one(f"{UP}.qweight", lambda one: one.flatten()), r"up_proj\.qweight: .*both must be matrices"),
        ("gptq", with_one(f"{UP}.qweight", lambda one: one.long()), r"up_proj\.qweight: the dtype is I64, but I32 is expected"),
        ("gptq", with_one(f"{UP}.qweight", lambda one: one[:0]), r"up_proj\.qweight: the shape \[0, 192\] does not fit 128 inputs"),
        ("gptq", with_one(f"{UP}.qzeros", lambda one: one[:2]), r"up_proj\.qzeros: shape \[2, 24\], .* needs \[4, 24\]"),
        ("gptq", with_one(f"{UP}.scales", lambda one: one[:0]), r"up_proj\.scales: the shape \[0, 192\] does not fit 128 inputs in groups of 32"),
        ("gptq", with_one(f"{UP}.scales", lambda one: one[:3]), r"up_proj\.scales: the shape \[3, 192\] does not fit 128 inputs in groups of 32"),
        ("gptq", with_one(f"{UP}.scales", lambda one: one.int()), r"up_proj\.scales: the dtype is I32, but F16 or BF16 or F32 is expected"),
        ("gptq", with_one(f"{UP}.scales", at((0, 3), float("nan"))), "up_proj\\.scales: a scale is not finite"),
        ("awq", with_one(f"{UP}.scales", at((0, 3), float("inf"))), "up_proj\\.scales: a scale is not finite"),
        ("gptq_order", with_one(f"{UP}.g_idx", at(5, 4)), ("up_proj\\.g_idx: an input refers to group 4, but "
            "there are only 4 groups")),
        ("gptq_order", with_one(f"{UP}.g_idx", at(5, -7)), r"up_proj\.g_idx: an input refers to group -7, but there are only 4 groups"),
        ("gptq_order", with_one(f"{UP}.g_idx", lambda one: one[:-1]), r"up_proj\.g_idx: shape \[127\], but"),
        ("gptq_order", with_one(f"{UP}.g_idx", lambda one: one.float()), r"up_proj\.g_idx: the dtype is F32, but I32 or I64 is expected"),
        ("gptq", without(f"{UP}.qzeros"), r"up_proj\.qweight: the checkpoint lacks qzeros of this layer"),
        ("gptq", without(f"{UP}.qweight"), r"no layer uses .*up_proj\.qzeros.*\. The checkpoint lacks the matching qweight,"),
        ("awq", with_one("model.layers.0.mlp.act.scales", lambda _: torch.ones(3)), r"no layer uses .*act\.scales"),
        ("awq", with_one("model.layers.7.mlp.up_proj.qweight", lambda _: torch.ones(8, 1).int()), r"layers\.7\.mlp\.up_proj\.qweight: the model LlamaForCausalLM has no linear layer with this name"),
        ("awq", with_one(f"{UP}.bias", lambda _: torch.ones(3)), r"up_proj\.bias: the bias has the shape \[3\], but the layer has 192 outputs"),
        ("awq", lambda tensors: {key: one for key, one in tensors.items() if not key.startswith(UP)}, r"not complete: .* needs the weights .*up_proj\.weight"),
        ("pack_quantized", with_one(f"{UP}.weight_packed", lambda one: one[:, 1:]), r"up_proj\.weight_packed: the shape \[192, 15\] does not fit 128 inputs with 4 bits"),
        ("pack_quantized", with_one(f"{UP}.weight_shape", lambda _: torch.tensor([192, 2**40])), ("up_proj\\.weight_shape: "
            "\\[192, 1099511627776\\], but the layer needs \\[192, 128\\]")),
        ("pack_quantized", with_one(f"{UP}.weight_scale", at((0, 0), float("-inf"))), r"up_proj\.weight_scale: a scale is not"),
        ("pack_quantized_zeros", with_one(f"{UP}.weight_zero_point", lambda one: one[1:]), r"up_proj\.weight_zero_point: shape \[23, 4\], but"),
        ("pack_quantized_order", with_one(f"{UP}.weight_g_idx", at(0, 99)), r"up_proj\.weight_g_idx: an input refers to group 99, but there are only 4 groups"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_by_name(
    saved_format: Saved, tmp_path: Path, name: str, change: Change, message: str
) -> None:
    folder = changed(saved_format(name), tmp_path / "changed", change)
    with pytest.raises(ConfigError, match=message) as refused:
        load(folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "edit", "named"),
    [
        *(
            (name, lambda content: content[:-100], "truncated: tensor")
            for name in ("fp8", "int8_dynamic", "gptq")
        ),
        (
            "gptq",
            lambda content: content.replace(b'"shape":[16,192]', b'"shape":[99,192]'),
            "[99, 192] needs 76032 bytes",
        ),
    ],
)
def test_a_truncated_file_and_a_header_that_lies_are_refused(
    saved_format: Saved, tmp_path: Path, name: str, edit: Callable[[bytes], bytes], named: str
) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(saved_format(name), folder)
    file = folder / "model.safetensors"
    file.write_bytes(edit(file.read_bytes()))
    with raises(ConfigError, "damaged") as raised:
        load(folder)
    assert named in raised.value.reason


@pytest.mark.parametrize(
    ("name", "head"),
    [
        (
            "fbgemm_fp8",
            {"weight": torch.ones(259, 128).to(torch.float8_e4m3fn), "weight_scale": torch.ones(259, 1)},
        ),
        (
            "int8_dynamic",
            {"weight": torch.ones(259, 128, dtype=torch.int8), "weight_scale": torch.ones(259, 1)},
        ),
        ("gptq", {"qweight": torch.ones(16, 259, dtype=torch.int32)}),
    ],
)
def test_a_quantized_head_that_is_tied_is_refused(
    saved_format: Saved, tmp_path: Path, name: str, head: dict[str, torch.Tensor]
) -> None:
    more = {f"lm_head.{end}": tensor for end, tensor in head.items()}
    folder = changed(
        saved_format(name, tie_word_embeddings=True), tmp_path / "tied", lambda tensors: tensors | more
    )
    with raises(ConfigError, "mismatch") as raised:
        load(folder)
    assert "tie_word_embeddings" in raised.value.reason


# ----------------------------------------------------------------------------------------- settings


def check_refused_before_weights(saved_format: Saved, to: Path, stored: Any, message: str) -> None:
    shutil.copytree(saved_format("gptq"), to)
    settings = json.loads((to / "config.json").read_text()) | {"quantization_config": stored}
    (to / "config.json").write_text(json.dumps(settings))
    (to / "model.safetensors").write_bytes(b"no weights: reading them would be another error")
    with pytest.raises(ConfigError, match=message):
        load(to)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (coded.BLOCKS | {"weight_block_size": [0, 128]}, ("fp8 .* weight_block_size=\\[0, "
            "128\\] must be null or two integers from 1 to")),
        (coded.BLOCKS | {"weight_block_size": [128]}, ("fp8 .* weight_block_size=\\[128\\] must "
            "be null or two integers from 1 to")),
        (coded.BLOCKS | {"weight_block_size": [128, 10**12]}, r"fp8 .* weight_block_size=\[128, 1000000000000\] must be null or two integers"),
        (coded.BLOCKS | {"weight_block_size": "big"}, ("fp8 .* weight_block_size='big' must "
            "be null or two integers from 1 to")),
        (coded.BLOCKS | {"weight_block_size": 128}, ("fp8 .* weight_block_size=128 must be "
            "null or two integers from 1 to")),
        (coded.BLOCKS | {"expert_dtype": "fp4"}, "fp8 .* expert_dtype='fp4': the runner supports only fp8"),
        (coded.scheme(coded.TOKEN | {"num_bits": 4}), "float_quantized .* the activations use num_bits=4 type=float dynamic=True"),
        (coded.scheme(coded.TOKEN | {"dynamic": "local"}), "float_quantized .* the activations use .* dynamic=local"),
        (coded.scheme(coded.GROUP | {"group_size": 0}), "float_quantized .* the activations use .* group_size=0"),
        (coded.scheme(coded.STATIC | {"strategy": "token"}), "float_quantized .* the activations use .* dynamic=False"),
        (coded.scheme([8]), "float_quantized .* input_activations=\\[8\\] must be a JSON object"),
        (coded.scheme(None, "token"), "float_quantized .* the weights use num_bits=8 type=float symmetric=True strategy=token"),
        (coded.scheme(None, "group", group_size="x"), "float_quantized .* the weights have group_size=x"),
        (coded.scheme(None, "block", block_structure=[-1, 2]), r"float_quantized .* block_structure=\[-1, 2\]"),
        (coded.scheme(None, kv_cache_scheme={"num_bits": 8}), "float_quantized .* the checkpoint sets kv_cache_scheme, which the runner does not support"),
        (coded.float4_scheme("mxfp4-pack-quantized", 10**9), "mxfp4_pack_quantized .* the weights use .* group_size=1000000000"),
        (coded.float4_scheme("mxfp4-pack-quantized", 32, coded.LOCAL), "mxfp4_pack_quantized .* activations are quantized, but the runner supports only quantized weights"),
        (coded.float4_scheme("nvfp4-pack-quantized", 16, coded.TOKEN), "nvfp4_pack_quantized .* the activations use num_bits=8"),
        (coded.float4_scheme("nvfp4-pack-quantized", 16, [4]), r"nvfp4_pack_quantized .* input_activations=\[4\]"),
        ({"quant_method": "bitnet", "linear_class": "mine"}, ("bitnet .* linear_class='mine': the runner "
            "supports only bitlinear")),
        ({"quant_method": "bitnet", "quantization_mode": "online"}, "bitnet .* quantization_mode='online'"),
        ({"quant_method": "bitnet", "use_rms_norm": True}, "bitnet .* use_rms_norm=True"),
        (coded.scheme(None, config_groups={
            str(number): coded.scheme(rows)["config_groups"]["group_0"] for number, rows in enumerate((None, coded.STATIC))
        }), "float_quantized .* layer groups have different settings"),
        (int8.scheme(int8.DYNAMIC | {"num_bits": 4}), "int_quantized .* the activations use num_bits=4 type=int dynamic=True strategy=token"),
        (int8.scheme(int8.DYNAMIC | {"symmetric": False}), ("int_quantized .* the activations use .* "
            "symmetric=False, but the runner supports only")),
        (int8.scheme(int8.DYNAMIC | {"dynamic": "local"}), "int_quantized .* the activations use .* dynamic=local"),
        (int8.scheme(int8.DYNAMIC | {"strategy": ["x"]}), r"int_quantized .* the activations use .* strategy=\['x'\]"),
        (int8.scheme(int8.STATIC | {"strategy": "token"}), "int_quantized .* the activations use .* dynamic=False strategy=token"),
        (int8.scheme([8]), "int_quantized .* input_activations=\\[8\\] must be a JSON object"),
        (int8.scheme(None, "group"), "int_quantized .* the weights use num_bits=8 type=int symmetric=True strategy=group"),
        (int8.scheme(None, kv_cache_scheme={"num_bits": 8}), ("int_quantized .* the checkpoint sets kv_cache_scheme, "
            "which the runner does not support")),
        (int8.scheme(None, transform_config={"config_groups": {"R1": {}}}), "int_quantized .* the checkpoint sets transform_config, which the runner does not support"),
        (int8.scheme(None, sparsity_config={"format": "sparse-24-bitmask"}), "int_quantized .* the checkpoint sets sparsity_config, which the runner does not support"),
        (int8.scheme(None, config_groups={"a": {"weights": 3}}), "int_quantized .* each of the config_groups needs `weights`"),
        (int8.scheme(None, config_groups={"a": 3}), "int_quantized .* each of the config_groups needs `weights`"),
        (
            int8.scheme(None, config_groups={
                str(number): int8.scheme(rows)["config_groups"]["group_0"] for number, rows in enumerate((None, int8.STATIC))
            }),
            "int_quantized .* layer groups quantize activations differently",
        ),
    ],
)  # fmt: skip
def test_settings_that_the_runner_does_not_read_are_refused_before_weights(
    saved_format: Saved, tmp_path: Path, stored: Any, message: str
) -> None:
    found = detect_stored_format({"quantization_config": stored})
    assert found is not None
    assert found.refusal
    check_refused_before_weights(saved_format, tmp_path / "model", stored, message)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (grouped.STORED["gptq"] | {"bits": 77}, r"quantization_config\.bits=77 must be a whole number from 2 to 8"),
        (grouped.STORED["gptq"] | {"bits": "four"}, r"quantization_config\.bits='four'"),
        (grouped.STORED["gptq"] | {"group_size": 0}, r"quantization_config\.group_size=0 must be -1, or a whole number of at least 1"),
        (grouped.STORED["awq"] | {"group_size": [8]}, r"quantization_config\.group_size=\[8\]"),
        (grouped.STORED["awq"] | {"bits": 8}, r"quantization_config\.bits=8: AWQ's layout supports only 4"),
        (grouped.STORED["gptq"] | {"checkpoint_format": "marlin"}, ("gptq by gptq, which cannot be loaded: "
            "checkpoint_format='marlin': the runner supports only gptq, gptq_v2")),
        (grouped.STORED["awq"] | {"version": "gemv"}, "version='gemv': the runner supports only gemm"),
        (grouped.STORED["auto_round"] | {"act_bits": 8}, r"auto_round by auto-round, which cannot be loaded: act_bits=8"),
        (grouped.STORED["auto_round"] | {"packing_format": ["x"]}, ("packing_format=\\['x'\\]: the runner "
            "supports only auto_round, ")),
        (grouped.STORED["auto_round"] | {"data_type": "mx_fp"}, "data_type='mx_fp': the runner supports only int"),
        (grouped.scheme(bits=99), r"quantization_config\.num_bits=99"),
        (grouped.scheme(config_groups={"a": {"format": "pack-quantized"}}), r"each of the config_groups needs `weights`"),
        ("text", "quantization_config is 'text' instead of a JSON object"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_before_weights(
    saved_format: Saved, tmp_path: Path, stored: Any, message: str
) -> None:
    check_refused_before_weights(saved_format, tmp_path / "model", stored, message)


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ({"strategy": "block"}, {"type": "int", "strategy": "block"}),
        ({"type": "float"}, {"type": "float", "strategy": "group"}),
    ],
)
def test_other_weights_of_compressed_tensors_are_refused(
    weights: dict[str, str], kind: dict[str, str]
) -> None:
    stored = json.loads(json.dumps(grouped.scheme()))
    stored["config_groups"]["group_0"]["weights"] |= weights
    found = PackQuantizedConfig.parse_stored_format(stored)
    assert found is not None
    reads = note("reads_int_groups")
    assert found.refusal == note("kind_not_read", what="weights", found=kind, reads=reads)


@pytest.mark.parametrize(
    "extra", [{"format": "int-quantized"}, {"config_groups": {}}, {"config_groups": [1]}]
)
def test_other_formats_of_compressed_tensors_are_another_choices(extra: dict[str, Any]) -> None:
    assert PackQuantizedConfig.parse_stored_format(grouped.scheme(**extra)) is None


def test_what_compressed_tensors_would_do_besides_is_refused() -> None:
    for key in ("kv_cache_scheme", "transform_config", "sparsity_config"):
        found = PackQuantizedConfig.parse_stored_format(
            grouped.scheme() | {key: {"format": "sparse-24-bitmask"}}
        )
        assert found is not None
        assert found.refusal == note("has_unread_key", key=key)
    dense = PackQuantizedConfig.parse_stored_format(
        grouped.scheme(sparsity_config={"format": "dense"}, transform_config={})
    )
    assert dense is not None
    assert not dense.refusal, "that is what some versions write where nothing is sparse"
