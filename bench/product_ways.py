"""Which way of products is the fastest on this processor? `python bench/product_ways.py [--shapes 576x576]`.

The products that each way computes on one thread are multiplied by turns, with as many rows as a step and a prompt
have, in GFLOP/s: of a larger layer a part, which stays in the caches. The last lines are what a job would use.
RUNNER_WITHOUT=avx512_bf16 and ONEDNN_MAX_CPU_ISA=AVX512_CORE let this processor be one without products of bfloat16;
RUNNER_WITHOUT=avx512 and ONEDNN_MAX_CPU_ISA=AVX2 one with narrow registers: our kernels and torch then leave the same
instructions out.
"""

from __future__ import annotations

import argparse
import math
import sys
import time

import torch
from engines import head_line, markdown
from heading import parse_arguments
from torch import nn

from runner_engine.attention import shared_attention
from runner_engine.kernels import native
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.matmul import backend_selection
from runner_engine.matmul.backend_selection import MatmulBackend
from runner_engine.matmul.interleaved_timing import MatmulBuilders, shrink_shape_for_timing, time_matmuls
from runner_engine.render.notes import render_engine_note

ROWS = (1, 4, 8, 16, 32, 128)
# the layers of a model with 135M parameters
SMOLLM2 = ("576x576", "192x576", "1536x576", "576x1536", "49152x576")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--shapes", nargs="+", default=list(SMOLLM2), help="outputs x inputs of layers")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parse_arguments(parser)
    torch.set_num_threads(1)
    dtype: torch.dtype = getattr(torch, chosen.dtype)
    shapes = [
        (int(outputs), int(inputs))
        for outputs, _, inputs in (shape.partition("x") for shape in chosen.shapes)
    ]
    kernels = native.load_kernels()
    inputs = tuple(sorted({width for _, width in shapes}))
    problems = {
        way: backend_selection.find_backend_problem(way, inputs, dtype, kernels) for way in MatmulBackend
    }
    ways: MatmulBuilders = {}
    for way in MatmulBackend:
        if not problems[way]:
            ways |= backend_selection.get_matmul_builders(way, kernels)
    print(head_line(["bench/product_ways.py", *sys.argv[1:]], 1))
    print("\n".join(f"{way}: {render_engine_note(problem)}" for way, problem in problems.items() if problem))
    best: dict[tuple[str, int], float] = {}
    lines = []
    for shape in {shrink_shape_for_timing(shape): shape for shape in shapes}.values():
        outputs, width = shrink_shape_for_timing(shape)
        for _ in range(chosen.rounds):
            took = time_matmuls(ways, shape, ROWS, dtype, time.thread_time() + 60, slow_factor=math.inf)
            for name in ways:
                for count in ROWS:
                    rate = 2 * count * outputs * width / took[name][count] / 1e9
                    best[name, count] = max(best.get((name, count), 0.0), rate)
        lines += [
            [f"{outputs} x {width}", name, *(f"{best[name, count]:.0f}" for count in ROWS)] for name in ways
        ]
        best.clear()
    print(markdown(["outputs x inputs", "GFLOP/s by", *(f"{count} rows" for count in ROWS)], lines))
    layers = [nn.Linear(width, outputs, bias=False, device="meta", dtype=dtype) for outputs, width in shapes]
    heads = KvCacheSpec(1, 3, 3, 64, dtype, torch.device("cpu"))  # those of the same model
    if (attention := shared_attention.choose_shared_attention_backend(heads, kernels)) is not None:
        print(f"shared attention: {render_engine_note(attention.fact)}")
    print(
        f"products: {render_engine_note(backend_selection.choose_unquantized_backend(layers, dtype, kernels).fact)}"
    )


if __name__ == "__main__":
    main()
