"""Methods that transformers names and that the runner does not load, each with what stops it.

Seen with transformers 5.23 on a CPU, by loading a checkpoint of two layers whose config.json names
the method.
"""

from __future__ import annotations

REASONS = {
    "aqlm": "transformers 5.23 needs the package aqlm for it, which the runner does not use",
    "eetq": "transformers 5.23 needs the package kernels for it, which the runner does not use",
    "fouroversix": "transformers 5.23 needs the package fouroversix for it, which the runner does not use",
    "fp_quant": "transformers 5.23 loads it on a GPU only",
    "higgs": "transformers 5.23 loads it on a GPU only",
    "metal": "transformers 5.23 needs a torch with MPS for it, Apple's GPUs",
    "nvfp4": "transformers 5.23 loads no checkpoint that is quantized with it already",
    "quanto": "transformers 5.23 needs the package optimum-quanto for it, whose last release is of March 2025",
    "quark": "transformers 5.23 needs the package Quark (0.12 or newer) for it, which the runner does not use",
    "sinq": "transformers 5.23 needs the package sinq for it, which the runner does not use",
    "spqr": "transformers 5.23 loads it on a GPU only",
    "vptq": "transformers 5.23 needs the package vptq for it, which the runner does not use",
}
