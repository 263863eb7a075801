"""The square-only `.pth` adapter: y = W x + B(A(x)) on every linear layer with as many outputs as
inputs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def attach_square_lora(model: nn.Module, rank: int) -> list[nn.Parameter]:
    """Give every square linear layer a low-rank path, initially zero, and return the new
    parameters."""
    squares = [m for m in model.modules() if isinstance(m, nn.Linear) and m.in_features == m.out_features]
    parameters: list[nn.Parameter] = []
    for linear in squares:
        size, like = linear.in_features, linear.weight
        down = nn.Linear(size, rank, bias=False, dtype=like.dtype, device=like.device)
        up = nn.Linear(rank, size, bias=False, dtype=like.dtype, device=like.device)
        nn.init.normal_(down.weight, std=size**-0.5)  # A x is then about as large as x
        nn.init.zeros_(up.weight)
        # As a child of the layer, its keys in the state dict are those of the file:
        # `….q_proj.lora.A.weight`.
        linear.add_module("lora", nn.ModuleDict({"A": down, "B": up}))
        linear.register_forward_hook(_add_low_rank)
        parameters += [*down.parameters(), *up.parameters()]
    return parameters


def save_square_lora(model: nn.Module, path: Path) -> None:
    """Write the adapter in half precision."""
    torch.save({name: tensor.half() for name, tensor in model.state_dict().items() if ".lora." in name}, path)


def load_square_lora(model: nn.Module, path: Path) -> None:
    """Load the adapter of a file onto a model without one."""
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    rank = next(tensor.shape[0] for name, tensor in state.items() if name.endswith(".lora.A.weight"))
    attach_square_lora(model, rank)
    expected = {name for name in model.state_dict() if ".lora." in name}
    assert expected == set(state), sorted(expected ^ set(state))[:4]
    model.load_state_dict(state, strict=False)


def _add_low_rank(linear: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    low: Tensor = linear.lora["B"](linear.lora["A"](inputs[0]))
    return output + low
