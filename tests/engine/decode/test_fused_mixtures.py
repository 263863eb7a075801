"""Mixtures of experts inside the single call: router, choice, experts and what is beside them, and
what is wrong shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_pass import all_logits, with_fast_kernels
from opening import make_spec, open_engine
from torch import nn
from transformers import AutoModelForCausalLM

from runner_base.dtypes import Dtype
from runner_engine.decode.compat_probe import are_multi_token_logits_exact
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.layouts import NotFusable
from runner_engine.decode.layouts.routers import RouterFormula, infer_router_layout
from runner_engine.decode.passes.forward import Forward
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.kernels.expert_structures import RouterScores
from runner_engine.kv_cache import KvCacheSpec
from runner_engine.local.engine import LocalEngine
from runner_engine.models.base_loading import LoadedModel
from runner_engine.quantization import CHOICES
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)
NEAR = 2e-5  # of the logits' spread
GROUPED = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 8, "norm_topk_prob": True},
    "mixtral": {"num_local_experts": 8},
    "qwen2_moe": {"num_experts": 8},
    "gpt_oss": {"num_local_experts": 8},
    "glm4_moe": GROUPED,
}
LIVELY = 3.0  # times the usual weights of experts, so that one that is exchanged shows
Change = Callable[[FusedForward], None]


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LocalEngine]:
    def make(family: str, dtype: Dtype = Dtype.float32, **keys: Any) -> LocalEngine:
        monkeypatch.setitem(families.OVERRIDES, family, FAMILIES.get(family, {}) | keys)
        families.build(family, tmp_path / family)
        model = LocalModelConfig(name=str(tmp_path / family), device="cpu", dtype=dtype)
        engine = open_engine(make_spec(model=model))
        engine.load()
        random = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for path, numbers in (
                *engine.loaded.model.named_parameters(),
                *engine.loaded.model.named_buffers(),
            ):
                if path.endswith(("bias", "_correction_bias")):
                    numbers.copy_(torch.randn(numbers.shape, generator=random) / 4)
                elif ".experts." in path or "shared_expert" in path:
                    numbers.mul_(LIVELY)
        return engine

    return make


def off_from_the_models_own(loaded: LoadedModel, heads: KvCacheSpec, fused: FusedForward) -> float:
    """Return how far the farthest logit is off, as a share of their spread."""
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    return float((all_logits(forward, with_prefix=True) - expected).abs().max() / expected.std())


@pytest.mark.thorough
@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_are_the_models_own(family: str, engine_of: Callable[..., LocalEngine]) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of(family))
    assert fused is not None
    assert not fused.has_separate_mlps
    assert fused.is_by_row
    assert off_from_the_models_own(loaded, heads, fused) <= NEAR


def _of_mixtures(**values: Any) -> Change:
    """Return a change: numbers of all mixtures are others."""

    def change(fused: FusedForward) -> None:
        for mixture in fused.weights.mixtures.of_layer.values():
            for name, value in values.items():
                assert getattr(mixture, name) != value
                setattr(mixture, name, value)

    return change


def _exchange_experts(fused: FusedForward) -> None:
    """Exchange the first matrices of the first two experts."""
    for layer in fused.weights.mixtures.experts.values():
        first, second = layer.matrices[1], layer.matrices[4]
        first.weight, second.weight = second.weight, first.weight


def _choose_others(fused: FusedForward) -> None:
    """Let the router's rows belong to other experts: the best one gets the place of its
    neighbour."""
    for mixture in fused.weights.mixtures.of_layer.values():
        mixture.router += mixture.set.hidden * 4
        mixture.set.experts -= 1


def _choose_one_less(fused: FusedForward) -> None:
    for mixture in fused.weights.mixtures.of_layer.values():
        mixture.set.chosen -= 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("qwen3_moe", _exchange_experts),
        ("qwen3_moe", _choose_others),
        ("qwen3_moe", _choose_one_less),
        ("qwen3_moe", _of_mixtures(normalizes=0)),
        ("qwen3_moe", _of_mixtures(scores=int(RouterScores.sigmoid_scores))),
        ("qwen2_moe", _of_mixtures(shared_scale=None)),
        ("gpt_oss", _of_mixtures(bias=None)),
        ("gpt_oss", _exchange_experts),
        ("glm4_moe", _of_mixtures(correction=None)),
        ("glm4_moe", _of_mixtures(groups=1, chosen_groups=1)),
        ("glm4_moe", _of_mixtures(best_of_group=1)),
        ("glm4_moe", _of_mixtures(scale=1.0)),
    ],
)
def test_what_is_wrong_shows_in_the_logits(
    family: str, change: Change, engine_of: Callable[..., LocalEngine]
) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of(family))
    assert fused is not None
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    right = all_logits(forward, with_prefix=True)
    change(fused)
    assert (all_logits(forward, with_prefix=True) - right).abs().max() > 50 * NEAR * right.std()


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_bits_of_a_token_do_not_depend_on_others(dtype: Dtype, engine_of: Callable[..., LocalEngine]) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("qwen2_moe", dtype))
    assert fused is not None
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    assert are_multi_token_logits_exact(forward, families.VOCABULARY)


@pytest.mark.thorough
def test_each_choice_is_counted(engine_of: Callable[..., LocalEngine]) -> None:
    """As often as the layers' own modules choose each expert."""
    loaded, heads, fused = with_fast_kernels(engine_of("glm4_moe"))
    assert fused is not None
    forward, seen = Forward(loaded.model, heads), list[torch.Tensor]()
    experts = next(iter(fused.expert_counts))

    def note(_: nn.Module, __: Any, made: tuple[torch.Tensor, ...]) -> None:
        seen.append(made[-1])

    with loaded.model.model.layers[1].mlp.gate.register_forward_hook(note):
        all_logits(forward, with_prefix=True)
    forward.fused = fused
    fused.expert_counts[experts].zero_()
    all_logits(forward, with_prefix=True)
    assert torch.equal(fused.expert_counts[experts], torch.cat(seen).flatten().bincount(minlength=8))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_quantized_experts_are_in_the_call(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"hidden_size": 128, "moe_intermediate_size": 128, "num_experts": 8, "decoder_sparse_step": 1}
    monkeypatch.setitem(families.OVERRIDES, "qwen3_moe", sizes)
    families.build("qwen3_moe", tmp_path / "model")
    model = LocalModelConfig(name=str(tmp_path / "model"), device="cpu", dtype=Dtype.bfloat16)
    loaded, heads, fused = with_fast_kernels(
        open_engine(make_spec(model=model, quantization=CHOICES[name]()))
    )
    assert fused is not None
    assert len(fused.weights.mixtures.of_layer) == 2
    [first, *_] = fused.weights.mixtures.experts.values()
    assert WeightFormat(first.matrices[0].kind) not in (WeightFormat.plain, WeightFormat.plain_rows)
    expected = all_logits(Forward(loaded.model, heads), with_prefix=False)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    assert (all_logits(forward, with_prefix=False) - expected).abs().mean() <= 0.04 * expected.std()


@pytest.mark.thorough
def test_a_mixture_that_fits_no_memory_is_refused(engine_of: Callable[..., LocalEngine]) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("qwen3_moe"))
    assert fused is not None
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    for name, value in (("chosen", 9), ("chosen", 0), ("hidden", 32), ("experts", 5000)):
        for mixture in fused.weights.mixtures.of_layer.values():
            before = getattr(mixture.set, name)
            setattr(mixture.set, name, value)
        with pytest.raises((IndexError, ValueError, MemoryError)):
            all_logits(forward, with_prefix=False)
        for mixture in fused.weights.mixtures.of_layer.values():
            setattr(mixture.set, name, before)
    all_logits(forward, with_prefix=False)


FORMULAS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen3_moe": ({"norm_topk_prob": True}, {"normalizes": True}),
    "olmoe": ({"norm_topk_prob": False}, {"normalizes": False}),
    "mixtral": ({}, {"normalizes": True, "rounds_weights": False}),
    "gpt_oss": ({}, {"normalizes": True, "has_bias": True}),
    "deepseek_v2": (
        {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "n_routed_experts": 8},
        {"groups": 4, "chosen_groups": 2, "best_of_group": 1, "normalizes": False},
    ),
    "glm4_moe": (
        GROUPED,
        {"groups": 4, "chosen_groups": 2, "best_of_group": 2, "has_correction": True, "scale": 2.5, "rounds_logits": False},
    ),
    "lfm2_moe": (
        {"use_expert_bias": True}, {"has_correction": True, "epsilon": 1e-6, "scores": RouterScores.sigmoid_scores},
    ),
}  # fmt: skip


def block_of(family: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Return the mixture of a tiny model's last layer, in bfloat16."""
    monkeypatch.setitem(families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | FORMULAS[family][0])
    model: Any = AutoModelForCausalLM.from_config(families.tiny_config(family)).bfloat16()
    layer = model.model.layers[-1]
    found: nn.Module = getattr(layer, "mlp", None) or layer.feed_forward
    return found


def router_in(block: Any) -> nn.Module:
    """Return its router."""
    found: nn.Module = getattr(block, "gate", None) or block.router
    return found


@pytest.mark.parametrize("family", list(FORMULAS))
def test_the_formula_of_a_router_is_found_by_a_trial(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = block_of(family, monkeypatch)
    formula = infer_router_layout(router_in(block), block).formula
    assert {name: getattr(formula, name) for name in FORMULAS[family][1]} == FORMULAS[family][1]


def test_a_router_that_does_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are squared; and so is one whose choice is that of the lowest scores."""
    block = block_of("qwen3_moe", monkeypatch)
    router: Any = router_in(block)
    own = type(router).forward

    def squared(self: Any, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, weights, index = own(self, rows)
        return logits, weights.square(), index

    def lowest(self: Any, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = nn.functional.linear(rows, self.weight)
        scores, index = logits.softmax(-1, dtype=torch.float32).topk(self.top_k, largest=False)
        return logits, scores, index

    for forward in (squared, lowest):
        monkeypatch.setattr(type(router), "forward", forward)
        with pytest.raises(NotFusable, match="^the router .* formula$"):
            infer_router_layout(router, block)


def test_a_formula_counts_no_expert_of_another_group() -> None:
    formula = RouterFormula(2, RouterScores.sigmoid_scores, False, False, 2, 1, 2, True, 0.0, 1.0)
    logits = torch.tensor([[5.0, -5.0, 1.0, 1.0]])  # the best expert is in the worse group
    assert formula(logits, torch.empty(0)).tolist() == [[0.0, 0.0, 0.5, 0.5]]
