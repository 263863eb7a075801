"""Converts a mix of quantization formats to a `task=quantize` command."""

from __future__ import annotations

import shlex
from collections import Counter

from runner.options.advise.knapsack import FormatChoice
from runner.options.advise.mix import MixableModel, merge_layer_formats_by_module
from runner_base.plugins import find_builtin_options

GROUP_SIZES = (128, 64, 32)  # inputs that share a scale: the first is what the task takes by itself
# bits of a weight in formats of which llm-compressor has integers of as many
BITS = {
    **dict.fromkeys(("nf4", "fp4", "hqq", "torchao_intx"), 4),
    **dict.fromkeys(("int8", "int8_dynamic", "torchao_int8", "torchao_float8"), 8),
    # by which the task's overrides say that a layer stays as it is
    "none": 16,
}


def format_quantize_command(model: MixableModel, choice: FormatChoice) -> str | None:
    """Return the `task=quantize` command for a mix of formats, or None if a package or bit width is
    unsupported.
    """
    of_layer = model.map_paths_to_formats(choice)
    if "quantize" not in find_builtin_options("task") or not {*of_layer.values()} <= {*BITS}:
        return None
    bits = {path: str(BITS[name]) for path, name in of_layer.items()}
    quantized = Counter(str(BITS[name]) for name in of_layer.values() if name != "none")
    sizes = [size for size in GROUP_SIZES if not any(width % size for width in model.widths)]
    if not quantized or not sizes:
        return None
    (base, _), = quantized.most_common(1)  # fmt: skip
    inner = ", ".join(f"{path}: {value}" for path, value in merge_layer_formats_by_module(bits, base).items())
    overrides = [word for word in model.overrides if not word.startswith("task")]
    words = ["task=quantize", "task.recipe=gptq", "task.calibration=TEXTS", f"task.bits={base}"]
    words += [f"task.group_size={sizes[0]}"] * (sizes[0] != GROUP_SIZES[0])
    return shlex.join(["runner", *words, f"task.overrides={{{inner}}}", *overrides])
