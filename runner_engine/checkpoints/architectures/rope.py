"""The rotary embedding of a .gguf file, as transformers describes it: its scaling, and factors that
are tensors.

A converter writes llama3's scaling, and LongRoPE's, as one divisor for each frequency. Where the
divisors are those of a llama3 scaling, it is named; any others are a LongRoPE with the same ones
for short and for long texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from runner_base import DataError, short
from runner_engine.checkpoints.architectures.base import Numbers, head_dim_of, numbers_of, of_file

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import Header

FACTORS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
BY_TENSORS = ("none", "longrope")  # kinds of scalings of which keys say nothing more
LOW, HIGH = 1.0, 4.0  # llama3's two bounds, which all models with this scaling have
CLOSE = 1e-5  # of a divisor that was computed again
YARN_KEYS = {
    "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}


def rope_of(header: Header, head_dim: int) -> dict[str, Any]:
    """Return the rotary embedding as transformers describes it; head_dim: of the heads that are
    rotated."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": _number(header, "rope.freq_base", 10000.0)}
    rotated = of_file(header, "rope.dimension_count", head_dim)
    if head_dim and rotated != head_dim:
        rope["partial_rotary_factor"] = rotated / head_dim
    rope |= _scaling(header)
    names = {tensor.name for tensor in header.tensors}
    if {SHORT, LONG} & names:
        return rope | _two_lengths(header, rotated // 2, rope)
    if FACTORS in names:
        return rope | _one_length(header, rotated, rope)
    return rope


def scaled_rope(header: Header) -> dict[str, Any]:
    """Return a setting for a rotary embedding that is more than its base."""
    rope = rope_of(header, head_dim_of(header))
    is_plain = rope["rope_type"] == "default" and "partial_rotary_factor" not in rope
    return {} if is_plain else {"rope_parameters": rope}


def _scaling(header: Header) -> dict[str, Any]:
    """Return the scaling that keys of the file describe."""
    kind = of_file(header, "rope.scaling.type", "linear")
    if kind in BY_TENSORS:
        return {}
    if kind not in ("linear", "yarn"):
        raise DataError(
            f"{header.architecture}.rope.scaling.type={short(kind)} cannot be read",
            key=header.file,
            code="unsupported",
        )
    older = _number(header, "rope.scale_linear", 1.0)  # how older files call it
    scaling: dict[str, Any] = {"rope_type": kind, "factor": _number(header, "rope.scaling.factor", older)}
    if kind == "linear":
        return {} if scaling["factor"] == 1 else scaling
    scaling["original_max_position_embeddings"] = _trained_length(header)
    given = {
        key: name for key, name in YARN_KEYS.items() if of_file(header, f"rope.scaling.{key}") is not None
    }
    scaling |= {name: _number(header, f"rope.scaling.{key}", 1.0) for key, name in given.items()}
    if of_file(header, "rope.scaling.attn_factor") is not None:  # beside what YaRN multiplies by itself
        own = scaling.get("attention_factor", 1 + 0.1 * float(np.log(max(scaling["factor"], 1.0))))
        scaling["attention_factor"] = own * _number(header, "rope.scaling.attn_factor", 1.0)
    return scaling


def _two_lengths(header: Header, pairs: int, rope: dict[str, Any]) -> dict[str, Any]:
    """Return LongRoPE: other divisors from the length of the pretraining on."""
    if rope["rope_type"] != "default":
        raise DataError(
            f"{SHORT} and a rope.scaling.type={rope['rope_type']} beside it cannot be read",
            key=header.file,
            code="unsupported",
        )
    found = {
        key: _divisors(header, name, pairs).tolist()
        for key, name in (("short_factor", SHORT), ("long_factor", LONG))
    }
    longrope = {"rope_type": "longrope", **found, "original_max_position_embeddings": _trained_length(header)}
    if of_file(header, "rope.scaling.attn_factor") is not None:
        longrope["attention_factor"] = _number(header, "rope.scaling.attn_factor", 1.0)
    return longrope


def _one_length(header: Header, rotated: int, rope: dict[str, Any]) -> dict[str, Any]:
    """Return the scaling whose divisors the file has."""
    divisors = _divisors(header, FACTORS, rotated // 2)
    if rope["rope_type"] == "yarn":
        raise DataError(
            f"{FACTORS} and a rope.scaling.type=yarn beside it cannot be read",
            key=header.file,
            code="unsupported",
        )
    if (divisors == 1).all():
        return {}
    known = _llama3(divisors, rope["rope_theta"]) if rope["rope_type"] == "default" else None
    if known is not None:
        return known
    values = (divisors * rope.pop("factor", 1.0)).tolist()
    return {
        "rope_type": "longrope",
        "short_factor": values,
        "long_factor": values,
        "attention_factor": 1.0,
        "original_max_position_embeddings": int(_number(header, "context_length", 2048)),
    }


def _llama3(divisors: Numbers, theta: float) -> dict[str, Any] | None:
    """Return the llama3 scaling that has these divisors, if one has."""
    factor = round(float(divisors.max()), 4)
    # in positions, of one turn
    lengths = 2 * np.pi * theta ** (np.arange(len(divisors)) / len(divisors))
    blended = (divisors > 1 + CLOSE) & (divisors < factor * (1 - CLOSE))
    shares = (factor / divisors[blended] - 1) / (factor - 1)  # of the frequency that is not scaled
    trained = lengths[blended] * (LOW + shares * (HIGH - LOW))
    original = round(float(np.median(trained))) if blended.any() else 8192
    if not np.allclose(_llama3_divisors(lengths, factor, original), divisors, rtol=CLOSE, atol=0):
        return None
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": original,
    }


def _llama3_divisors(lengths: Numbers, factor: float, original: int) -> Numbers:
    """Return by what llama3's scaling divides frequencies, by how many positions one turn takes."""
    share = np.clip((original / lengths - LOW) / (HIGH - LOW), 0.0, 1.0)
    divisors: Numbers = 1 / ((1 - share) / factor + share)
    return divisors


def _divisors(header: Header, name: str, pairs: int) -> Numbers:
    """Return the divisors of frequencies that a tensor holds, one for each rotated pair."""
    tensor = next((one for one in header.tensors if one.name == name), None)
    if tensor is None:
        raise DataError(
            f"{SHORT} and {LONG} belong together, and {name} is missing", key=header.file, code="damaged"
        )
    if tensor.dtype != "F32" or tensor.shape != (pairs,):
        found = f"{list(tensor.shape)} in {tensor.dtype}"
        raise DataError(
            f"{name}: {pairs} numbers in F32 expected, one for each pair, found {found}",
            key=header.file,
            code="damaged",
        )
    values: Numbers = numbers_of(tensor).astype(np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise DataError(f"{name}: numbers above 0 expected", key=header.file, code="damaged")
    return values


def _trained_length(header: Header) -> int:
    """Return for how many positions the model was trained before its rotary embedding was
    scaled."""
    key = "rope.scaling.original_context_length"
    return int(_number(header, "context_length" if of_file(header, key) is None else key, 2048))


def _number(header: Header, key: str, default: float) -> float:
    value = of_file(header, key, default)
    if type(value) not in (int, float) or not 0 < value < np.inf:
        name = f"{header.architecture}.{key}"
        raise DataError(
            f"damaged header: {name}: a number above 0 expected, found {short(value)}",
            key=header.file,
            code="damaged",
        )
    return float(value)
