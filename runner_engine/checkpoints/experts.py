"""Lists the matrices of all experts, from the tensor names in a checkpoint. Imports no torch.

Some checkpoints store each matrix of each expert separately, others all experts of a layer in one
tensor with three dimensions. Both are listed in the same form: a linear weight for each matrix of
each expert, named as in most checkpoints, `model.layers.0.mlp.experts.3.gate_proj.weight`. So one
walk decides about all of them, and the loader follows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner_engine.checkpoints.weight_files import TensorLocation

# an expert's matrices, as most checkpoints name them
GATE, UP, DOWN = ("gate_proj", "up_proj", "down_proj")
APART = {
    GATE: GATE,
    UP: UP,
    DOWN: DOWN,
    "w1": GATE,
    "w3": UP,
    "w2": DOWN,
    "fc1": GATE,
    "fc3": UP,
    "fc2": DOWN,
}
OF_ONE = re.compile(rf"(?P<layer>.*\.experts)\.(?P<number>\d+)\.(?P<name>{'|'.join(APART)})\.weight")
GATE_AND_UP = "gate_up_proj"
FUSED = {f"experts.{name}": name for name in (GATE_AND_UP, UP, DOWN)} | {
    "block_sparse_moe.input_linear.weight": GATE_AND_UP,  # Granite's
    "block_sparse_moe.output_linear.weight": DOWN,
    "experts.fc1.weight": GATE_AND_UP,  # Aria's
    "experts.fc2.weight": DOWN,
}
OF_ALL = re.compile(rf"(?P<block>.*\.)(?P<name>{'|'.join(map(re.escape, FUSED))})")
OLDER = ".block_sparse_moe.experts"  # where Mixtral's checkpoints have what is in mlp.experts in the model
# families that store [inputs, outputs]
TRANSPOSED = frozenset({"gpt_oss", "llama4", "llama4_text", "aria_text"})
# families whose experts compute otherwise than transformers' own
NOT_APART = frozenset({"longcat_flash", "step3p7"})


@dataclass(frozen=True)
class ExpertMatrix(TensorLocation):
    """A weight matrix [outputs, inputs] of one expert, which may be a part of a stored tensor."""

    layer: str = ""  # the path of the experts of its layer
    number: int = 0
    matrix: str = ""  # gate_proj, up_proj or down_proj
    stored: TensorLocation | None = None  # the tensor of this matrix alone, or of all experts
    is_fused: bool = False


def list_tensors_with_split_experts(
    tensors: Iterable[TensorLocation], config: Mapping[str, Any]
) -> list[TensorLocation]:
    """Return a checkpoint's tensors, but list each matrix of fused experts separately.

    Model families whose experts stay fused are returned unchanged.
    """
    listed = list(tensors)
    family = str(config.get("model_type", ""))
    if family in NOT_APART:
        return listed
    return [matrix for tensor in listed for matrix in _iter_expert_matrices(tensor, family in TRANSPOSED)]


def _iter_expert_matrices(tensor: TensorLocation, is_transposed: bool) -> Iterator[TensorLocation]:
    apart = OF_ONE.fullmatch(tensor.name) if len(tensor.shape) == 2 else None
    if apart is not None:
        layer = apart["layer"].replace(OLDER, ".mlp.experts")
        yield _build_expert_matrix(
            tensor, layer, int(apart["number"]), APART[apart["name"]], tensor.shape, False
        )
        return
    fused = OF_ALL.fullmatch(tensor.name) if len(tensor.shape) == 3 else None
    if fused is None:
        yield tensor
        return
    name, (experts, first, second) = FUSED[fused["name"]], tensor.shape
    outputs, inputs = (second, first) if is_transposed else (first, second)
    names = [name]
    if name == GATE_AND_UP:
        names, outputs = [GATE, UP], outputs // 2
    for number in range(experts):
        for matrix in names:
            yield _build_expert_matrix(
                tensor, f"{fused['block']}experts", number, matrix, (outputs, inputs), True
            )


def _build_expert_matrix(
    tensor: TensorLocation, layer: str, expert: int, matrix_name: str, shape: tuple[int, ...], is_fused: bool
) -> ExpertMatrix:
    nbytes = shape[0] * shape[1] * tensor.nbytes // max(tensor.num_elements, 1)
    name = f"{layer}.{expert}.{matrix_name}.weight"
    return ExpertMatrix(
        name,
        tensor.dtype,
        shape,
        tensor.file,
        tensor.offset,
        nbytes,
        None,
        layer,
        expert,
        matrix_name,
        tensor,
        is_fused,
    )
