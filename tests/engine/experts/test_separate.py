"""Experts taken apart compute what the family's own fused ones do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mixtures import MIXTURES, mixture
from torch import nn

from runner_engine.experts import (
    ExpertFormat,
    SeparateExperts,
    build_separate_experts,
    detect_expert_format,
    select_expert_matrix,
    separate_all_experts,
)

IDS = torch.randint(3, 200, (2, 24), generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> torch.Tensor:
    """Return the logits of two sequences."""
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


@pytest.mark.sampled(7)
@pytest.mark.parametrize("family", MIXTURES)
def test_separate_experts_compute_what_the_familys_own_do(family: str) -> None:
    model = mixture(family)
    own = logits(model)
    found = separate_all_experts(model)
    assert found
    assert all(len([*experts.children()]) >= 8 for experts in found.values())
    assert not [path for path, one in model.named_parameters() if ".experts." in path and one.dim() == 3]
    assert torch.allclose(logits(model), own, atol=2e-5)

    experts = next(iter(found.values()))  # the control: another expert's weights
    taken = max(range(experts.num_experts), key=lambda number: change(model, experts, number, own))
    assert change(model, experts, taken, own) > 1e-2


def change(model: Any, experts: SeparateExperts, number: int, own: torch.Tensor) -> float:
    """Return how far logits change when an expert has the weights of the next one."""
    kept = experts.get_expert(number)
    experts._modules[str(number)] = experts.get_expert((number + 1) % experts.num_experts)
    difference = (logits(model) - own).abs().max()
    experts._modules[str(number)] = kept
    return float(difference)


@pytest.mark.parametrize("family", MIXTURES)
def test_an_experts_matrices_are_linear_layers_in_the_usual_order(family: str) -> None:
    model = mixture(family)
    path, experts = next(
        (path, one) for path, module in model.named_modules() if (one := build_separate_experts(module))
    )
    assert path.endswith(".experts")
    layers: dict[str, Any] = dict(experts.get_expert(3).named_children())
    assert [*layers] == (
        ["up_proj", "down_proj"] if family == "nemotron_h" else ["gate_proj", "up_proj", "down_proj"]
    )
    assert all(type(layer) is nn.Linear for layer in layers.values())
    assert all((layer.bias is not None) == (family == "gpt_oss") for layer in layers.values())
    fused: Any = model.get_submodule(path)
    down = fused.down_proj[3]
    assert torch.equal(layers["down_proj"].weight, down.T if family in ("gpt_oss", "llama4") else down)
    # a view: nothing is in memory twice
    assert layers["down_proj"].weight.data_ptr() == down.data_ptr()
    if family == "gpt_oss":
        assert torch.equal(layers["up_proj"].weight, fused.gate_up_proj[3, :, 1::2].T)
        assert torch.equal(layers["gate_proj"].bias, fused.gate_up_proj_bias[3, 0::2])


def test_the_familys_parameters_are_not_kept() -> None:
    model = mixture("mixtral")
    before = {id(one) for one in model.parameters() if one.dim() == 3}
    (first, _) = separate_all_experts(model).values()
    held: list[Any] = [first._family[0]]
    assert not [*held[0].parameters()]
    assert not before & {id(one) for one in model.parameters()}


def test_without_memory_the_layers_have_none_either() -> None:
    with torch.device("meta"):
        model = mixture("qwen3_moe")
    for experts in separate_all_experts(model).values():
        assert {one.device.type for one in experts.parameters()} == {"meta"}


def test_rows_without_an_expert_get_nothing() -> None:
    experts = next(iter(separate_all_experts(mixture("qwen3_moe")).values()))
    rows, weights = torch.randn(3, 64), torch.rand(3, 2)
    chosen = torch.tensor([[1, 8], [8, 8], [2, 3]])  # 8 is none of them
    result = experts(rows, chosen, weights)
    assert torch.allclose(result[0], experts.get_expert(1)(rows[:1])[0] * weights[0, 0], atol=1e-6)
    assert not result[1].any()
    assert not experts(rows, torch.full((3, 2), 8), weights).any()


def test_only_fused_experts_have_a_form() -> None:
    assert detect_expert_format(nn.Linear(4, 4)) is None
    assert build_separate_experts(nn.ModuleList([nn.Linear(4, 4)])) is None


def test_gates_and_ups_that_alternate_are_taken_apart() -> None:
    form = ExpertFormat(is_transposed=True, is_concatenated=False)
    fused = torch.arange(12.0).view(2, 6)  # 2 inputs, 3 gates and 3 ups
    assert select_expert_matrix(form, "gate_proj", fused).tolist() == [[0, 6], [2, 8], [4, 10]]
    assert select_expert_matrix(form, "up_proj", fused).tolist() == [[1, 7], [3, 9], [5, 11]]
    assert select_expert_matrix(form, "down_proj", fused).tolist() == fused.T.tolist()
