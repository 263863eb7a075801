"""Products of bytes for any processor, compiled for processors that this one may not be."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.checkpoints.pass_memory import quantized_workspace_bytes
from runner.core import machine
from runner.engines.local.kernels import building, native
from runner.engines.local.matrices import QuantizedWeights

SOURCE = """
#include "numbers.h"
#include "thread_team.h"
#include "attention.h"
#include "matrices.h"
#include "checks.h"
#define T bf16
#define NAME(x) x##_bf16
#include "int8_portable.h"
"""
TARGETS = ["x86-64", "x86-64-v3", "x86-64-v3 -mavx512vnni -mavx512vl"]

is_x86 = pytest.mark.skipif(
    native.kernels() is None or os.uname().machine != "x86_64", reason="the flags are those of x86"
)


def built_for(target: str, folder: Path) -> Path:
    """Return the portable kernel, compiled for other processors."""
    (folder / "portable.c").write_text(SOURCE)
    flags = building.FLAGS.replace("-march=native", f"-march={target}").split()
    compiler, library = machine.c_compiler(), folder / "portable.so"
    assert compiler is not None
    command = [compiler, *flags, "-I", str(building.FOLDER), str(folder / "portable.c"), "-o", str(library), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def function_for(target: str, folder: Path) -> Any:
    """Return the product in bfloat16 for a processor; skip the test where this one cannot run it."""
    if "vnni" in target and not {"avx512_vnni", "avx512vl"} <= machine.processor_flags():
        pytest.skip("this processor has no AVX-512 VNNI")
    function = ctypes.CDLL(str(built_for(target, folder))).int8_product_bf16
    function.argtypes, function.restype = native._SIGNATURES["int8_product"], ctypes.c_int64
    return function


def product_by(function: Any, rows: torch.Tensor, weights: QuantizedWeights) -> torch.Tensor:
    """Return the product of rows in bfloat16 with a matrix."""
    count, inputs = rows.shape
    workspace = torch.empty(quantized_workspace_bytes(count, inputs, 1), dtype=torch.uint8)
    found = torch.empty(count, weights.matrix.outputs, dtype=torch.bfloat16)
    address = ctypes.addressof(weights.matrix)
    called = (count, inputs, address, workspace.data_ptr(), workspace.nbytes, found.data_ptr(), 1)
    assert function(rows.data_ptr(), *called) == 0
    return found
