"""Quantization methods of transformers that the runner does not support, each with the reason.

Tested with transformers 5.23 on a CPU, by loading a checkpoint of two layers whose config.json names
the method.
"""

from __future__ import annotations

from runner_base.notes import note

REASONS = {
    "aqlm": note("needs_package", package="aqlm"),
    "eetq": note("needs_package", package="kernels"),
    "fouroversix": note("needs_package", package="fouroversix"),
    "fp_quant": note("on_gpu_only"),
    "higgs": note("on_gpu_only"),
    "metal": note("needs_mps"),
    "nvfp4": note("no_quantized_checkpoint"),
    "quanto": note("needs_quanto"),
    "quark": note("needs_package", package="Quark (0.12 or newer)"),
    "sinq": note("needs_package", package="sinq"),
    "spqr": note("on_gpu_only"),
    "vptq": note("needs_package", package="vptq"),
}
