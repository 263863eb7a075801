"""What each choice of quantization makes of each family: `python bench/engine/quantized.py [FAMILY …] [--choices …]`.

Tiny models of random weights in bfloat16, built from their config classes. A cell has the share of the parameters in
blocks that is quantized, by how much the plan's bytes of all weights are off those that were loaded, and whether one
matrix (an expert's, of a mixture) has the bits that the library gives it when it is taken out of the model. The control
is the matrix of another expert or layer, whose bits must differ. Exit code 1 where a plan is off by more than --limit,
or bits differ.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from heading import parse_arguments
from torch import nn

from runner_base import ConfigError, Dtype, to_one_line
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, predict_footprint, resolve_model
from runner_engine.checkpoints.linear_layers import plan_model_quantization
from runner_engine.experts import separate_all_experts
from runner_engine.models.base_loading import load_base_model
from tools import families
from tools.library_bits import are_equal, made_by_library

FAMILIES = (
    "qwen3", "qwen3_moe", "gpt_oss", "mixtral", "gemma3_text", "qwen3_5_text", "lfm2", "deepseek_v3", "glm4_moe",
    "granitemoehybrid",
)  # fmt: skip
SIZES = {  # which all choices take: whole groups of 64 inputs, and 32 outputs
    "intermediate_size": 128, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
    "shared_intermediate_size": 64, "head_dim": 32, "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32, "v_head_dim": 32,
}  # fmt: skip
MAMBA = {"mamba_d_state": 16, "mamba_n_heads": 32, "mamba_d_head": 4}  # 320 outputs
QUANTIZATIONS = (
    "int8",
    "nf4",
    "fp4",
    "int8_dynamic",
    "torchao_int8",
    "torchao_float8",
    "torchao_intx",
    "hqq",
)


def main() -> None:
    """Load, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", default=FAMILIES)
    parser.add_argument("--choices", nargs="+", default=QUANTIZATIONS)
    parser.add_argument("--limit", type=float, default=0.05)
    options = parse_arguments(parser)
    print("share quantized · plan's bytes against loaded ones · bits of one matrix\n")
    print(f"| family | {' | '.join(options.choices)} |")
    print("|---|" + "".join("---|" for _ in options.choices))
    wrong: list[str] = []
    families.SIZES |= SIZES
    families.OVERRIDES["granitemoehybrid"] |= MAMBA
    for family in options.families:
        with tempfile.TemporaryDirectory() as folder:
            families.build(family, Path(folder))
            cells = [cell(family, name, Path(folder), options.limit, wrong) for name in options.choices]
        print(f"| {family} | {' | '.join(cells)} |", flush=True)
    print("\n" + ("\n".join(wrong) if wrong else "all within the limit, and with the library's bits"))
    sys.exit(bool(wrong))


def cell(family: str, name: str, folder: Path, limit: float, wrong: list[str]) -> str:
    """Return what is said of a family with a choice; what is wrong is added to the list."""
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16)
    resolved = resolve_model(ModelSpec(model, CHOICES[name](allow_partial=True)))
    try:
        base = load_base_model(resolved)
    except ConfigError as error:
        return f"refused: {to_one_line(error, limit=90)}"
    predicted = predict_footprint(resolved, (1, 16, 8))
    assert predicted is not None
    off = sum(predicted.weights.values()) / sum(base.bytes_by_dtype.values()) - 1
    has_bits = has_library_bits(base, resolved, folder)
    if abs(off) > limit:
        wrong.append(f"{family} {name}: the plan is off by {off:+.1%}")
    if not has_bits:
        wrong.append(f"{family} {name}: other bits than the library's")
    return f"{base.metrics['quantized_share']:.1%} · {off:+.2%} · {'equal' if has_bits else 'differ'}"


def has_library_bits(base: Any, resolved: Any, folder: Path) -> bool:
    """Whether one quantized matrix has the library's bits, and another one others."""
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    separate_all_experts(original)
    plain, loaded = dict(original.named_modules()), dict(base.model.named_modules())
    found = plan_model_quantization(resolved.files, resolved.quantization_mix, "cpu").choices
    paths = [
        path
        for path in (name.removesuffix(".weight") for name in found)
        if type(plain.get(path)) is nn.Linear
    ]
    candidates = [path for path in paths if ".experts." in path] or paths
    shapes = {path: plain[path].weight.shape for path in candidates}
    first, other = next(pair for pair in combinations(candidates, 2) if shapes[pair[0]] == shapes[pair[1]])
    own, taken, control = (
        loaded[first],
        *(made_by_library(base, resolved.quantization_mix.base, plain[at]) for at in (first, other)),
    )
    return type(own) is type(taken) and are_equal(own, taken) and not are_equal(own, control)


if __name__ == "__main__":
    main()
