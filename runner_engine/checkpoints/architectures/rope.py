"""Converts the rope settings of a .gguf file, including scaling factors stored as tensors, to
transformers' format.

A converter writes llama3's scaling, and LongRoPE's, as one divisor for each frequency. Divisors
that match a llama3 scaling become that; any others become a LongRoPE with the same factors for
short and long prompts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from runner_base import DataError, format_truncated_repr
from runner_base.lazy_imports import LazyModule
from runner_engine.checkpoints.architectures.base import (
    NumericArray,
    read_architecture_setting,
    read_float32_tensor,
    read_head_dim,
)

if TYPE_CHECKING:
    import numpy as np

    from runner_engine.checkpoints.gguf_header import GgufHeader
else:
    np = LazyModule("numpy")  # starts threads, after which MLflow's process cannot be forked

FACTORS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
BY_TENSORS = ("none", "longrope")  # kinds of scalings of which keys say nothing more
LOW, HIGH = 1.0, 4.0  # llama3's two bounds, which all models with this scaling have
CLOSE = 1e-5  # of a divisor that was computed again
YARN_KEYS = {
    "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}


def read_rope_parameters(header: GgufHeader, head_dim: int) -> dict[str, Any]:
    """Read the rope parameters in transformers' format. `head_dim` counts only the rotated
    dimensions of a head.
    """
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": _read_positive_number(header, "rope.freq_base", 10000.0),
    }
    rotated = read_architecture_setting(header, "rope.dimension_count", head_dim)
    if head_dim and rotated != head_dim:
        rope["partial_rotary_factor"] = rotated / head_dim
    rope |= _read_rope_scaling(header)
    names = {tensor.name for tensor in header.tensors}
    if {SHORT, LONG} & names:
        return rope | _read_longrope_scaling(header, rotated // 2, rope)
    if FACTORS in names:
        return rope | _infer_rope_scaling_from_divisors(header, rotated, rope)
    return rope


def read_rope_parameters_if_scaled(header: GgufHeader) -> dict[str, Any]:
    """Return the rope parameters as a config entry, or {} if the file has no rope scaling."""
    rope = read_rope_parameters(header, read_head_dim(header))
    is_plain = rope["rope_type"] == "default" and "partial_rotary_factor" not in rope
    return {} if is_plain else {"rope_parameters": rope}


def _read_rope_scaling(header: GgufHeader) -> dict[str, Any]:
    kind = read_architecture_setting(header, "rope.scaling.type", "linear")
    if kind in BY_TENSORS:
        return {}
    if kind not in ("linear", "yarn"):
        raise DataError(
            f"{header.architecture}.rope.scaling.type={format_truncated_repr(kind)} cannot be read",
            key=header.file,
            code="unsupported",
        )
    older = _read_positive_number(header, "rope.scale_linear", 1.0)  # how older files call it
    scaling: dict[str, Any] = {
        "rope_type": kind,
        "factor": _read_positive_number(header, "rope.scaling.factor", older),
    }
    if kind == "linear":
        return {} if scaling["factor"] == 1 else scaling
    scaling["original_max_position_embeddings"] = _read_pretraining_length(header)
    given = {
        key: name
        for key, name in YARN_KEYS.items()
        if read_architecture_setting(header, f"rope.scaling.{key}") is not None
    }
    scaling |= {
        name: _read_positive_number(header, f"rope.scaling.{key}", 1.0) for key, name in given.items()
    }
    if (
        read_architecture_setting(header, "rope.scaling.attn_factor") is not None
    ):  # beside what YaRN multiplies by itself
        own = scaling.get("attention_factor", 1 + 0.1 * float(np.log(max(scaling["factor"], 1.0))))
        scaling["attention_factor"] = own * _read_positive_number(header, "rope.scaling.attn_factor", 1.0)
    return scaling


def _read_longrope_scaling(header: GgufHeader, num_pairs: int, rope: dict[str, Any]) -> dict[str, Any]:
    if rope["rope_type"] != "default":
        raise DataError(
            f"{SHORT} is unsupported in combination with rope.scaling.type={rope['rope_type']}",
            key=header.file,
            code="unsupported",
        )
    found = {
        key: _read_frequency_divisors(header, name, num_pairs).tolist()
        for key, name in (("short_factor", SHORT), ("long_factor", LONG))
    }
    longrope = {
        "rope_type": "longrope",
        **found,
        "original_max_position_embeddings": _read_pretraining_length(header),
    }
    if read_architecture_setting(header, "rope.scaling.attn_factor") is not None:
        longrope["attention_factor"] = _read_positive_number(header, "rope.scaling.attn_factor", 1.0)
    return longrope


def _infer_rope_scaling_from_divisors(
    header: GgufHeader, rotary_dim: int, rope: dict[str, Any]
) -> dict[str, Any]:
    divisors = _read_frequency_divisors(header, FACTORS, rotary_dim // 2)
    if rope["rope_type"] == "yarn":
        raise DataError(
            f"{FACTORS} is unsupported in combination with rope.scaling.type=yarn",
            key=header.file,
            code="unsupported",
        )
    if (divisors == 1).all():
        return {}
    known = _fit_llama3_scaling(divisors, rope["rope_theta"]) if rope["rope_type"] == "default" else None
    if known is not None:
        return known
    values = (divisors * rope.pop("factor", 1.0)).tolist()
    return {
        "rope_type": "longrope",
        "short_factor": values,
        "long_factor": values,
        "attention_factor": 1.0,
        "original_max_position_embeddings": int(_read_positive_number(header, "context_length", 2048)),
    }


def _fit_llama3_scaling(divisors: NumericArray, theta: float) -> dict[str, Any] | None:
    """Find the llama3 rope scaling that produces the given frequency divisors. Returns None if no
    scaling does.
    """
    factor = round(float(divisors.max()), 4)
    # in positions, of one turn
    lengths = 2 * np.pi * theta ** (np.arange(len(divisors)) / len(divisors))
    blended = (divisors > 1 + CLOSE) & (divisors < factor * (1 - CLOSE))
    shares = (factor / divisors[blended] - 1) / (factor - 1)  # of the frequency that is not scaled
    trained = lengths[blended] * (LOW + shares * (HIGH - LOW))
    original = round(float(np.median(trained))) if blended.any() else 8192
    if not np.allclose(_compute_llama3_divisors(lengths, factor, original), divisors, rtol=CLOSE, atol=0):
        return None
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": original,
    }


def _compute_llama3_divisors(
    wavelengths: NumericArray, factor: float, original_positions: int
) -> NumericArray:
    share = np.clip((original_positions / wavelengths - LOW) / (HIGH - LOW), 0.0, 1.0)
    divisors: NumericArray = 1 / ((1 - share) / factor + share)
    return divisors


def _read_frequency_divisors(header: GgufHeader, tensor_name: str, num_pairs: int) -> NumericArray:
    tensor = next((one for one in header.tensors if one.name == tensor_name), None)
    if tensor is None:
        raise DataError(
            f"{tensor_name} is missing. The file must contain both {SHORT} and {LONG}",
            key=header.file,
            code="damaged",
        )
    if tensor.dtype != "F32" or tensor.shape != (num_pairs,):
        found = f"{list(tensor.shape)} in {tensor.dtype}"
        raise DataError(
            f"{tensor_name} has shape and type {found}. Expected [{num_pairs}] in F32, one number per pair",
            key=header.file,
            code="damaged",
        )
    values: NumericArray = read_float32_tensor(tensor).astype(np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise DataError(f"{tensor_name}: numbers above 0 expected", key=header.file, code="damaged")
    return values


def _read_pretraining_length(header: GgufHeader) -> int:
    """Read the pretraining context length, which rope scaling extends."""
    key = "rope.scaling.original_context_length"
    return int(
        _read_positive_number(
            header, "context_length" if read_architecture_setting(header, key) is None else key, 2048
        )
    )


def _read_positive_number(header: GgufHeader, setting_name: str, default: float) -> float:
    value = read_architecture_setting(header, setting_name, default)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        name = f"{header.architecture}.{setting_name}"
        raise DataError(
            f"damaged header: {name} is {format_truncated_repr(value)}. Expected a number above 0",
            key=header.file,
            code="damaged",
        )
    return float(value)
