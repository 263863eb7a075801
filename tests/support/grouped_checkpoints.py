"""Tiny Llamas whose linear layers are integers with a scale for each group of inputs, and their
plain weights.

Written from the formats' descriptions, bit by bit; the code that reads them is another.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import quantized_llama
import torch
from quantized_llama import Tensors, compressed_tensors

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass
class Integers:
    """A layer's codes [outputs, inputs], zero points and scales [outputs, groups], and the group of
    each input."""

    codes: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor
    group_of: torch.Tensor

    @property
    def plain(self) -> torch.Tensor:
        """The weights in float64."""
        offset = self.codes.double() - self.zeros.double()[:, self.group_of]
        return offset * self.scales.double()[:, self.group_of]


def random_integers(
    outputs: int, inputs: int, bits: int, group: int, seed: int, symmetric: bool = False, ordered: bool = True
) -> Integers:
    random = torch.Generator().manual_seed(seed)
    group = inputs if group == -1 else group
    groups = -(-inputs // group)
    codes = torch.randint(2**bits, (outputs, inputs), generator=random)
    zeros = torch.randint(1, 2**bits, (outputs, groups), generator=random)
    if symmetric:
        zeros = torch.full_like(zeros, 2 ** (bits - 1))
    scales = ((torch.rand(outputs, groups, generator=random) + 0.2) * 0.2 / 2**bits).half()
    group_of = torch.arange(inputs) // group
    if not ordered:
        group_of = group_of[torch.randperm(inputs, generator=random)]
    return Integers(codes, zeros, scales, group_of)


def pack(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack numbers along the last dimension, lowest bits first, into int32."""
    places = (numbers.numpy()[..., None] >> np.arange(bits)) & 1
    stream = places.reshape(*numbers.shape[:-1], -1)
    stream = np.pad(stream, [(0, 0)] * (stream.ndim - 1) + [(0, -stream.shape[-1] % 32)])
    words = stream.reshape(*stream.shape[:-1], -1, 32).astype(np.uint64) @ (
        1 << np.arange(32, dtype=np.uint64)
    )
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


def gptq(of: Integers, bits: int, minus_one: bool = True, g_idx: bool = True) -> dict[str, torch.Tensor]:
    zeros = (of.zeros - int(minus_one)).T.contiguous()
    tensors = {
        "qweight": pack(of.codes, bits).T.contiguous(),
        "qzeros": pack(zeros, bits),
        "scales": of.scales.T.contiguous(),
    }
    return tensors | ({"g_idx": of.group_of.int()} if g_idx else {})


def awq(of: Integers) -> dict[str, torch.Tensor]:
    def packed(numbers: torch.Tensor) -> torch.Tensor:  # [outputs, n] -> [n, outputs / 8]
        words = numbers.T.reshape(numbers.shape[1], -1, 8)[..., AWQ_ORDER]
        return pack(words.reshape(numbers.shape[1], -1), 4)

    return {"qweight": packed(of.codes), "qzeros": packed(of.zeros), "scales": of.scales.T.contiguous()}


def pack_quantized(of: Integers, bits: int, symmetric: bool) -> dict[str, torch.Tensor]:
    tensors = {
        "weight_packed": pack(of.codes, bits),
        "weight_scale": of.scales,
        "weight_shape": torch.tensor(of.codes.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = pack(of.zeros.T.contiguous(), bits).T.contiguous()
    if not torch.equal(of.group_of, of.group_of.sort().values):
        tensors["weight_g_idx"] = of.group_of.int()
    return tensors


def scheme(bits: int = 4, group: int = 32, symmetric: bool = True, **extra: Any) -> dict[str, Any]:
    """The quantization_config of compressed-tensors."""
    weights = {
        "num_bits": bits, "type": "int", "symmetric": symmetric,
        "strategy": "channel" if group == -1 else "group", "group_size": None if group == -1 else group,
    }  # fmt: skip
    return compressed_tensors("pack-quantized", {"weights": weights}, **extra)


STORED: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False},
    "gptq_order": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False},
    "gptq_v2": {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True, "checkpoint_format": "gptq_v2"},
    "gptq_3_bits": {"quant_method": "gptq", "bits": 3, "group_size": 64, "desc_act": True, "sym": False},
    "gptq_2_bits": {"quant_method": "gptq", "bits": 2, "group_size": 32, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
    "auto_round": {
        "quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": True, "data_type": "int",
        "packing_format": "auto_round:auto_gptq",
    },
    "auto_round_gptqmodel": {
        "quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False, "data_type": "int",
        "packing_format": "auto_round:gptqmodel", "extra_config": {"model.layers.0.mlp.down_proj": {"bits": 8}},
    },
    "auto_round_awq": {
        "quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False,
        "packing_format": "auto_round:auto_awq",
    },
    "pack_quantized": scheme(),
    "pack_quantized_zeros": scheme(symmetric=False),
    "pack_quantized_order": scheme(symmetric=False),
    "pack_quantized_8_bits": scheme(bits=8, group=-1),
}  # fmt: skip
CHOICE_OF = {
    name: next(one for one in ("gptq", "awq", "auto_round", "pack_quantized") if name.startswith(one))
    for name in STORED
}


def is_ordered(name: str) -> bool:
    return not (name.endswith("_order") or name == "gptq_3_bits")


def tensors_of(
    name: str, path: str, outputs: int, inputs: int, seed: int
) -> tuple[Integers, dict[str, torch.Tensor]]:
    """Return a layer's integers, and its tensors as this checkpoint has them."""
    stored = STORED[name]
    if name.startswith("pack"):
        weights = stored["config_groups"]["group_0"]["weights"]
        bits, group, symmetric = (weights["num_bits"], weights["group_size"] or -1, weights["symmetric"])
        of = random_integers(outputs, inputs, bits, group, seed, symmetric, is_ordered(name))
        of.scales = of.scales.bfloat16()
        return of, pack_quantized(of, bits, symmetric)
    bits = stored.get("extra_config", {}).get(path, stored)["bits"]
    of = random_integers(
        outputs, inputs, bits, stored["group_size"], seed, stored.get("sym", False), is_ordered(name)
    )
    if name in ("awq", "auto_round_awq"):
        return of, awq(of)
    has_plain_zeros = name in ("gptq_v2", "auto_round_gptqmodel")
    return of, gptq(of, bits, minus_one=not has_plain_zeros, g_idx=name.startswith("gptq"))


def save(folder: Path, name: str, **settings: Any) -> None:
    """Save a Llama of two layers in this format."""
    seeds = itertools.count()

    def layer(path: str, outputs: int, inputs: int) -> Tensors:
        return tensors_of(name, path, outputs, inputs, next(seeds))[1]

    quantized_llama.save(folder, STORED[name], layer, **settings)


def plain_model(name: str, dtype: torch.dtype, **settings: Any) -> Any:
    """Return the model that `save` has saved, of plain weights."""
    from transformers import LlamaForCausalLM

    seeds = itertools.count()

    def layer(path: str, outputs: int, inputs: int) -> Tensors:
        return {"weight": tensors_of(name, path, outputs, inputs, next(seeds))[0].plain}

    config, plain = quantized_llama.tensors_of(layer, **settings)
    plain.setdefault("lm_head.weight", plain["model.embed_tokens.weight"])
    model: Any = LlamaForCausalLM._from_config(config, dtype=dtype)
    model.load_state_dict({key: tensor.to(dtype) for key, tensor in plain.items()})
    return model.eval()
