"""Mixtures that are stored quantized: each expert by itself as most programs write it, or all in
one tensor as gpt-oss.

The plain model of the same weights is written beside, unpacked by the formats' descriptions;
transformers joins it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coded_checkpoints as coded
import grouped_checkpoints as grouped
import int8_checkpoints as int8
import modelopt_checkpoints as modelopt
import torch
from group_layers import E2M1
from mixtures import mixture
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
# in a block, and neither a norm nor a router
LINEAR = re.compile(r"\.\d+\..*(proj|w1|w2|w3|lin)\.weight$")
STORED: dict[str, dict[str, Any]] = {
    **{
        name: grouped.STORED[name]
        for name in ("gptq", "gptq_order", "awq", "pack_quantized", "pack_quantized_zeros")
    },
    **{name: coded.STORED[name] for name in ("fp8", "float_quantized_weights", "float_quantized")},
    **{name: coded.STORED[name] for name in ("nvfp4_pack_quantized", "mxfp4_pack_quantized")},
    "int8_weights_only": int8.STORED["weights_only"],
    "int8_dynamic": int8.STORED["dynamic"],
    **modelopt.STORED,
}
ROUNDS_ROWS = ("float_quantized", "int8_dynamic", *modelopt.ROUNDS_ROWS)
MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
}


def layer_of(name: str, path: str, outputs: int, inputs: int, seed: int) -> tuple[Tensors, torch.Tensor]:
    """Return the tensors of a layer, and its weights in float32."""
    if name in grouped.STORED:
        of, tensors = grouped.tensors_of(name, "", outputs, inputs, seed)
        return tensors, of.plain.float()
    random = torch.Generator().manual_seed(seed)
    if name in modelopt.STORED:
        return modelopt.layer_of(name, path, outputs, inputs, random)
    if name.startswith("int8"):
        scale = ((torch.rand(outputs, 1, generator=random) + 0.2) * 0.2 / 256).bfloat16()
        codes = torch.randint(-128, 128, (outputs, inputs), generator=random, dtype=torch.int8)
        return {"weight": codes, "weight_scale": scale}, codes.float() * scale.float()
    tensors = coded.tensors_of(name, outputs, inputs, random)
    if name == "fp8":
        scale = (
            tensors["weight_scale_inv"]
            .repeat_interleave(64, 0)[:outputs]
            .repeat_interleave(32, 1)[:, :inputs]
        )
        return tensors, tensors["weight"].float() * scale
    if name.startswith("float"):
        return tensors, tensors["weight"].float() * tensors["weight_scale"].float()
    scale = tensors["weight_scale"]
    if name.startswith("mxfp4"):
        return tensors, float4(tensors["weight_packed"], torch.exp2(scale.float() - 127))
    return tensors, float4(tensors["weight_packed"], scale.float() / tensors["weight_global_scale"])


def float4(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the numbers of bytes with two codes, the lower bits first."""
    numbers = E2M1[torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2).int()]
    return numbers * scale.repeat_interleave(numbers.shape[-1] // scale.shape[-1], -1)


def save(folder: Path, family: str, name: str, keeps: str = "$^", **keys: Any) -> tuple[Path, Path]:
    """Save a mixture in a format, and its plain weights in float32; return both folders.

    keeps: a pattern of layers that the format leaves as they are.
    """
    seeds = iter(range(10**6))

    def layer(path: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        tensors, plain = layer_of(name, path, weight.shape[0], weight.shape[1], next(seeds))
        return {f"{path}.{end}": one for end, one in tensors.items()}, plain

    def is_changed(key: str) -> bool:
        return bool(LINEAR.search(key)) and not re.search(keeps, key)

    return _save(
        folder,
        family,
        STORED[name],
        is_changed,
        lambda key, old: layer(key.removesuffix(".weight"), old),
        keys,
    )


def save_gpt_oss(folder: Path, **keys: Any) -> tuple[Path, Path]:
    """Save a gpt-oss whose experts are in MXFP4 as its checkpoints have them, and its plain
    weights."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    random = torch.Generator().manual_seed(0)

    def fused(key: str, old: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        experts, inputs, outputs = old.shape
        groups = experts, outputs, inputs // 32
        blocks = torch.randint(0, 256, (*groups, 16), dtype=torch.uint8, generator=random)
        scales = torch.randint(119, 124, groups, dtype=torch.uint8, generator=random)
        plain = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        return {f"{key}_blocks": blocks, f"{key}_scales": scales}, plain

    return _save(
        folder,
        "gpt_oss",
        MXFP4,
        lambda key: key.endswith(("experts.gate_up_proj", "experts.down_proj")),
        fused,
        keys,
    )


FUSED = {  # how the experts of a family are stored in one tensor, and of what layers the rest is
    "fp8": ("qwen3_moe", coded.STORED["fp8"]),
    "fbgemm_fp8": ("llama4", coded.STORED["fbgemm_fp8"]),
    "modelopt_fp8": ("llama4", modelopt.settings("FP8")),
    "modelopt_nvfp4": ("llama4", modelopt.settings("W4A16_NVFP4")),
    "modelopt_nvfp4_alternating": ("gpt_oss", modelopt.settings("W4A16_NVFP4")),
}


def save_fused(folder: Path, name: str, **keys: Any) -> tuple[Path, Path]:
    """Save a mixture whose experts are codes in one tensor for each layer, and its plain
    weights."""
    family, stored = FUSED[name]
    if name == "fp8":  # outputs first
        folder, plain_folder = save(folder, family, name, **keys)
        save_file(
            _joined(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"}
        )
        return folder, plain_folder
    seeds = iter(range(10**6))
    kind = "modelopt_nvfp4" if "nvfp4" in name else "modelopt_tensor" if name == "modelopt_fp8" else name

    def fused(key: str, old: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        """Make each expert's matrix by itself, as the formats' own programs do, and put them into
        one tensor."""
        of_experts = [_parts_of(kind, one.T, next(seeds)) for one in old]
        ends = of_experts[0][0]
        tensors: Tensors = {}
        for end in ends:
            parts = [own[end] for own, _ in of_experts]
            if parts[0].dim() < 2:
                tensors[key + FUSED_ENDS[end]] = parts[0]
                continue
            tensors[key + FUSED_ENDS[end]] = torch.stack([part.T.contiguous() for part in parts])
        if kind == "fbgemm_fp8":
            scale = tensors.pop(f"{key}_weight_scale")
            tensors[f"{key}_scale"] = scale if "gate_up" in key else scale.transpose(1, 2).contiguous()
        return tensors, torch.stack([plain.T for _, plain in of_experts]).contiguous()

    return _save(
        folder,
        family,
        stored,
        lambda key: key.endswith(("experts.gate_up_proj", "experts.down_proj")),
        fused,
        keys,
    )


FUSED_ENDS = {"weight": "", "weight_scale": "_weight_scale", "weight_scale_2": "_weight_scale_2"}


def _parts_of(kind: str, weight: torch.Tensor, seed: int) -> tuple[Tensors, torch.Tensor]:
    """Return the tensors of one expert's matrix, and its weights."""
    outputs, inputs = weight.shape
    random = torch.Generator().manual_seed(seed)
    if kind.startswith("modelopt"):  # one number for all experts
        made, plain = modelopt.layer_of(kind, "", outputs, inputs, random)
        fixed = {"weight_scale": 0.2 / 448} if kind == "modelopt_tensor" else {"weight_scale_2": 1 / 12000}
        for end, number in fixed.items():
            plain, made[end] = plain * (number / made[end]), torch.tensor(number)
        return made, plain
    made = coded.tensors_of(kind, outputs, inputs, random)
    return made, made["weight"].float() * made["weight_scale"].float()


def _joined(tensors: Tensors) -> Tensors:
    """Join the experts of each layer, and their gates and ups, as transformers' own parameters
    are."""
    experts: dict[str, dict[int, torch.Tensor]] = {}
    made: Tensors = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)\.weight(\w*)", key)
        if match is None:
            made[key] = tensor
        else:
            experts.setdefault(f"{match[1]}.{match[3]}{match[4].removeprefix('_weight')}", {})[
                int(match[2])
            ] = tensor
    for key, of_experts in experts.items():
        if ".up_proj" in key:
            continue
        ups = experts.get(key.replace(".gate_proj", ".up_proj")) if ".gate_proj" in key else None
        one_by_one = [of_experts[number] for number in sorted(of_experts)]
        if ups is not None:
            one_by_one = [torch.cat((gate, ups[number])) for number, gate in enumerate(one_by_one)]
        made[key.replace(".gate_proj", ".gate_up_proj")] = torch.stack(one_by_one)
    return made


def _save(
    folder: Path, family: str, stored: dict[str, Any], is_changed: Callable[[str], bool],
    change: Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor]], keys: dict[str, Any],
) -> tuple[Path, Path]:  # fmt: skip
    plain_folder, folder = folder / "plain", folder / "stored"
    mixture(family, **keys).save_pretrained(plain_folder)
    tensors: Tensors = {}
    plain = {
        key: old.bfloat16().float() for key, old in load_file(plain_folder / "model.safetensors").items()
    }
    for key in [*plain]:
        if is_changed(key):
            own, plain[key] = change(key, plain[key])
            tensors |= own
        else:
            tensors[key] = plain[key].bfloat16()
    save_file(plain, plain_folder / "model.safetensors", {"format": "pt"})
    folder.mkdir()
    written = json.loads((plain_folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(written | {"quantization_config": stored, "dtype": "bfloat16"})
    )
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder, plain_folder


def exchanged(folder: Path, to: Path, layer: str) -> Path:
    """Copy a checkpoint whose experts of a layer have the codes of others: 0 and 1, or all that are
    in one tensor."""
    tensors = load_file(folder / "model.safetensors")
    changed = dict(_exchanged(tensors, layer))
    to.mkdir()
    (to / "config.json").write_text((folder / "config.json").read_text())
    save_file(
        {key: one.contiguous() for key, one in (tensors | changed).items()},
        to / "model.safetensors",
        {"format": "pt"},
    )
    return to


def _exchanged(tensors: Tensors, layer: str) -> Iterator[tuple[str, torch.Tensor]]:
    for key in tensors:
        if not key.startswith(layer):
            continue
        if key.endswith(("_blocks", "_scales")) or (".experts." in key and tensors[key].dim() == 3):
            yield key, tensors[key][[*range(1, len(tensors[key])), 0]]
        for number, other in ((".0.", ".1."), (".1.", ".0.")):
            if f".experts{number}" in key:
                yield key, tensors[key.replace(f".experts{number}", f".experts{other}")]
