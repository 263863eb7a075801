"""Products for any processor, compiled for processors that this one may not be."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import processors
import pytest
import torch

from runner_base import processor
from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.kernels import building, native
from runner_engine.matmul.layer_weights import QuantizedWeights

FOLDER = tempfile.TemporaryDirectory()
# What an emulation leaves out, so that it has what the last target has
ONLY_VNNI = ("-DEMULATED_WITHOUT_BF16", "-DEMULATED_WITHOUT_BW_AND_DQ")
TARGETS = ["x86-64", "x86-64-v3", "x86-64-v3 -mavx512vnni -mavx512vl"]

is_x86 = processors.needs("x86")
has_compiler = pytest.mark.skipif(processor.find_c_compiler() is None, reason="there is no C compiler here")


@cache
def built_for(target: str, is_emulated: bool = False) -> Path:
    """Return the products, compiled once for another processor, quickly and not for speed."""
    emulated = " ".join([*processors.emulation_flags(), *ONLY_VNNI])
    march = emulated if is_emulated else f"-march={target}"
    flags = building.FLAGS.replace("-march=native", march).replace("-O3", "-Og").split()
    compiler, library = processor.find_c_compiler(), Path(FOLDER.name) / f"{target.replace(' ', '')}.so"
    assert compiler is not None
    source = Path(__file__).parent / "products_only.c"
    command = [
        compiler,
        *flags,
        "-shared",
        "-w",
        "-I",
        str(building.FOLDER),
        str(source),
        "-o",
        str(library),
        "-lm",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return library


def function_for(target: str) -> Any:
    """Return the product in bfloat16 for a processor; skip the test where this one cannot run
    it."""
    needs_vnni = "vnni" in target
    if needs_vnni:
        processors.require("vnni", emulation=True)
    library = built_for(target, is_emulated=needs_vnni and not processors.has("vnni"))
    function = ctypes.CDLL(str(library)).product_bf16
    function.argtypes, function.restype = native._SIGNATURES["product"], ctypes.c_int64
    return function


def product_by(function: Any, rows: torch.Tensor, weights: QuantizedWeights) -> torch.Tensor:
    """Return the product of rows in bfloat16 with a matrix."""
    count, inputs = rows.shape
    workspace = torch.empty(compute_quantized_workspace_nbytes(count, inputs, 1), dtype=torch.uint8)
    found = torch.empty(count, weights.matrix.outputs, dtype=torch.bfloat16)
    address = ctypes.addressof(weights.matrix)
    called = (count, inputs, address, workspace.data_ptr(), workspace.nbytes, found.data_ptr(), 1)
    assert function(rows.data_ptr(), *called) == 0
    return found
