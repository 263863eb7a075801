"""How many of a mixture's parameters each token uses, from settings and headers as the hub has
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner_engine.checkpoints.mixture import compute_expert_mixture_size, format_parameter_count
from runner_engine.checkpoints.weight_files import TensorLocation

QWEN3_30B: dict[str, Any] = {"num_experts": 128, "num_experts_per_tok": 8, "tie_word_embeddings": False}


def tensor(name: str, *shape: int, dtype: str = "BF16", bits: int = 16) -> TensorLocation:
    count = 1
    for size in shape:
        count *= size
    return TensorLocation(name, dtype, shape, Path("model.safetensors"), 0, count * bits // 8)


def qwen3_30b(fused: bool) -> list[TensorLocation]:
    """The tensors of Qwen3-30B-A3B, with each expert apart as they are stored, or fused."""
    tensors = [tensor("model.embed_tokens.weight", 151936, 2048), tensor("lm_head.weight", 151936, 2048)]
    for layer in range(48):
        at = f"model.layers.{layer}"
        tensors += [tensor(f"{at}.self_attn.{name}_proj.weight", *shape) for name, shape in (
            ("q", (4096, 2048)), ("k", (512, 2048)), ("v", (512, 2048)), ("o", (2048, 4096)))]  # fmt: skip
        tensors.append(tensor(f"{at}.mlp.gate.weight", 128, 2048))
        if fused:
            tensors.append(tensor(f"{at}.mlp.experts.gate_up_proj", 128, 1536, 2048))
            tensors.append(tensor(f"{at}.mlp.experts.down_proj", 128, 2048, 768))
        else:
            for expert in range(128):
                own = f"{at}.mlp.experts.{expert}"
                tensors += [tensor(f"{own}.{name}_proj.weight", 768, 2048) for name in ("gate", "up")]
                tensors.append(tensor(f"{own}.down_proj.weight", 2048, 768))
    return tensors


@pytest.mark.parametrize("fused", [False, True])
def test_a_real_mixture_in_numbers(fused: bool) -> None:
    mixture = compute_expert_mixture_size(QWEN3_30B, qwen3_30b(fused))
    assert mixture is not None
    # its card: 3.3B of 30.5B, without some embeddings
    assert str(mixture) == "8 of 128 · 3.4B of 30.5B active"
    assert mixture.routed == 48 * 128 * 3 * 768 * 2048
    assert mixture.estimate_used_expert_fraction(1) == pytest.approx(8 / 128)
    assert mixture.estimate_used_expert_fraction(32) == pytest.approx(1 - (120 / 128) ** 32)


@pytest.mark.parametrize(
    ("name", "shape", "is_routed"),
    [
        ("model.layers.0.mlp.shared_experts.up_proj.weight", (8, 8), False),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", (8, 8), False),
        ("model.layers.0.block_sparse_moe.input_linear.weight", (2, 8, 8), True),
        ("model.layers.0.shared_mlp.input_linear.weight", (8, 8), False),
        ("blk.0.ffn_gate_exps.weight", (2, 8, 8), True),
        ("blk.0.ffn_gate_shexp.weight", (8, 8), False),
        ("model.layers.0.block_sparse_moe.experts.1.w1.weight", (8, 8), True),
        ("model.layers.0.self_attn.q_proj.weight", (8, 8), False),
    ],
)
def test_which_parameters_are_of_experts_that_are_chosen(
    name: str, shape: tuple[int, ...], is_routed: bool
) -> None:
    settings = {"num_local_experts": 2, "num_experts_per_tok": 1}
    mixture = compute_expert_mixture_size(
        settings, [tensor(name, *shape), tensor("model.layers.1.mlp.experts.0.w.weight", 4, 4)]
    )
    assert mixture is not None
    assert mixture.routed == 16 + is_routed * mixture_numbers(shape)


def mixture_numbers(shape: tuple[int, ...]) -> int:
    return tensor("any", *shape).num_elements


def test_a_dense_model_is_none() -> None:
    assert (
        compute_expert_mixture_size(
            {"num_hidden_layers": 2}, [tensor("model.layers.0.mlp.up_proj.weight", 8, 8)]
        )
        is None
    )


def test_numbers_of_parameters_are_short() -> None:
    assert [format_parameter_count(count) for count in (12, 1_230, 30_500_000_000)] == ["12", "1.2K", "30.5B"]
