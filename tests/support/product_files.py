"""Products of stored weights by a program for another processor, which reads matrices and rows from
a file."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from gguf_blocks import random_blocks
from group_layers import KINDS, layer_of, values_layer
from int8_layers import KINDS as INT8_KINDS
from int8_layers import layer_of as int8_layer
from library_layers import layer_of as library_layer
from library_layers import row_int8, stored_four_bits, weight_int8
from torch import nn

from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.kernels import building
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.kernels.native import Kernels
from runner_engine.matmul import four_bit, int8_stored
from runner_engine.matmul.blocks import GgufWeights
from runner_engine.matmul.groups import GroupedWeights
from runner_engine.matmul.layer_weights import LayerWeights, MatmulWorkspace
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.gguf_types import TYPES

BF16, F32 = torch.bfloat16, torch.float32
POINTERS = ("weight", "bias", "scale", "constants")
OUTPUTS, INPUTS = 72, 768  # a panel that is not full, and several strips
COUNTS = (1, 3, 17)


@dataclass
class Product:
    """Some rows, and weights of one format."""

    name: str
    weights: LayerWeights
    rows: torch.Tensor


def rows_of(count: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count)).to(dtype)
    rows[0, 5] = 12
    return rows


def every_format(width: int) -> Iterator[tuple[str, LayerWeights]]:
    """Return weights in each format that is multiplied without special instructions, in panels of
    so many outputs."""
    kernels, workspace = cast(Kernels, SimpleNamespace(panel_width=width)), MatmulWorkspace()
    for name in TYPES:
        for has_byte_rows in (False, True):
            like = nn.Linear(INPUTS, OUTPUTS, bias=False)
            layer = GgufLinear(like, random_blocks(name, OUTPUTS, INPUTS), name, None, has_byte_rows)
            yield f"{name}, rows in bytes: {has_byte_rows}", GgufWeights.from_layer(layer, kernels, workspace)
    grouped = {kind: layer_of(kind, OUTPUTS, INPUTS)[0] for kind in KINDS}
    grouped |= {f"{bits} bits": layer_of("packed", OUTPUTS, INPUTS, bits)[0] for bits in range(2, 9)}
    grouped |= {
        "table": values_layer(OUTPUTS, INPUTS, 4, 32, BF16),
        "float8": values_layer(OUTPUTS, INPUTS, 8, 128, F32),
    }
    for name, one in grouped.items():
        for one.has_byte_rows in (False, True)[: 1 if name in ("gptq_order", "float8") else 2]:
            yield (
                f"{name}, rows in bytes: {one.has_byte_rows}",
                GroupedWeights.from_layer(one, kernels, workspace),
            )
    for kind in ("nf4", "fp4"):
        yield kind, four_bit.build_kernel_weights(stored_four_bits(kind, INPUTS, OUTPUTS, True))
    library = library_layer("int8", INPUTS, OUTPUTS, True)
    library(rows_of(2, INPUTS, BF16))  # the library rearranges its weights in the first pass
    yield "int8", row_int8(library)
    # whole panels
    yield ("torchao_int8", weight_int8(library_layer("torchao_int8", INPUTS, 96, True)))
    for name, rounding in INT8_KINDS.items():
        yield (
            f"int8 of a checkpoint, {name}",
            int8_stored.build_kernel_weights(int8_layer(INPUTS, OUTPUTS, rounding), 0),
        )


def products(width: int) -> list[Product]:
    """Return products of all formats, in panels of so many outputs, with few rows and many."""
    return [
        Product(f"{name}, {count} rows, {dtype}", weights, rows_of(count, INPUTS, dtype))
        for name, weights in every_format(width)
        for dtype in (BF16, F32)
        if dtype in weights.formats
        for count in COUNTS
    ]


def written(some: Sequence[Product], path: Path) -> None:
    """Write the products' matrices and rows to a file."""
    with path.open("wb") as file:
        for one in some:
            count, inputs = one.rows.shape
            size = compute_quantized_workspace_nbytes(count, inputs, 2)
            tensors = {
                name: tensor for name in POINTERS if (tensor := _pointed_at(one.weights, name)) is not None
            }
            file.write(struct.pack("5q", one.rows.dtype is F32, count, inputs, size, len(tensors)))
            file.write(bytes(one.weights.matrix))
            for name, tensor in tensors.items():
                file.write(struct.pack("2q", getattr(Matrix, name).offset, tensor.nbytes) + _bytes(tensor))
            file.write(_bytes(one.rows))


def _pointed_at(weights: LayerWeights, name: str) -> torch.Tensor | None:
    address = getattr(weights.matrix, name)
    if not address:
        return None
    (tensor,) = {one.data_ptr(): one for one in weights.tensors if one.data_ptr() == address}.values()
    return tensor


def _bytes(tensor: torch.Tensor) -> bytes:
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes)  # as it lies in memory


def build(compiler: str, program: Path, *flags: str) -> Path:
    """Build the program for a processor."""
    source = Path(__file__).with_name("product_files.c")
    command = [compiler, "-O1", "-fopenmp", *building.MATH.split(), "-w", *flags, f"-I{building.FOLDER}"]
    subprocess.run([*command, str(source), "-o", str(program), "-lm"], check=True)
    return program


def computed(command: Sequence[str | Path], folder: Path) -> list[torch.Tensor]:
    """Return the outputs of all products by a program, in whose panels the weights are."""
    some = products(int(subprocess.check_output(command)))
    written(some, folder / "products")
    subprocess.run([*command, folder / "products", folder / "outputs"], check=True)
    read, at, found = bytearray((folder / "outputs").read_bytes()), 0, []
    for one in some:
        count = len(one.rows) * one.weights.matrix.outputs
        found.append(
            torch.frombuffer(read, dtype=one.rows.dtype, count=count, offset=at).view(len(one.rows), -1)
        )
        at += found[-1].nbytes
    assert at == len(read)
    return found
