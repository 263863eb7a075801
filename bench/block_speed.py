"""How fast are products with the blocks of a .gguf file? `python bench/block_speed.py [--rows 1 32] [--against FILE]`.

Layers with random blocks of each type, and the same layer in bfloat16's or float32's panels, are multiplied by turns on
one thread: GFLOP/s by its processor time, and the GB of weights that are read in a second. `--against` names another
build of the kernels (a file of ~/.cache/runner), whose products take their turns, too.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from engines import head_line, markdown, spread
from heading import parse_arguments
from torch import nn

from runner_engine.kernels.native import Kernels, load_kernels
from runner_engine.matmul.blocks import GgufWeights
from runner_engine.matmul.layer_weights import MatmulWorkspace
from runner_engine.matmul.plain_packing import PlainPackedWeights
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.gguf_types import TYPES

SHAPES = {"135m": "2048x768", "1b": "8192x2048"}  # of the widest layers of such models
MIN_S = 0.01  # of processor time, for which a product is repeated

Product = Callable[[torch.Tensor], torch.Tensor]


def random_layer(kind: str, outputs: int, inputs: int, has_byte_rows: bool = False) -> GgufLinear:
    """Return a layer with random bits and small scales."""
    of, random = TYPES[kind], torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (outputs, inputs // of.inputs, of.stored_bytes), generator=random).to(
        torch.uint8
    )
    scales = torch.randn(outputs, inputs // of.inputs, of.scales, generator=random) * 0.02
    blocks[..., of.scales_at : of.scales_at + 2 * of.scales] = scales.half().view(torch.uint8)
    return GgufLinear(
        nn.Linear(inputs, outputs, bias=False, device="meta"), blocks.flatten(1), kind, None, has_byte_rows
    )


def seconds(product: Product, rows: torch.Tensor) -> float:
    """Return the processor time of a product."""
    done, started = 0, time.thread_time()
    while (took := time.thread_time() - started) < MIN_S:
        product(rows)
        done += 1
    return took / done


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", default="135m", help=f"{', '.join(SHAPES)}, or outputs x inputs as 2048x768"
    )
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 32, 128])
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of rows and of the panels"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--against", type=Path, help="another build of the kernels")
    chosen = parse_arguments(parser)
    here = load_kernels()
    if here is None:
        raise SystemExit("there are no kernels: they need a C compiler")
    builds = {"": here} | ({"before ": Kernels(ctypes.CDLL(str(chosen.against)))} if chosen.against else {})
    torch.set_num_threads(1)
    outputs, inputs = map(int, SHAPES.get(chosen.shape, chosen.shape).split("x"))
    dtype: torch.dtype = getattr(torch, chosen.dtype)
    plain = PlainPackedWeights.pack(torch.randn(outputs, inputs).to(dtype), None, here)
    ways, nbytes = {chosen.dtype: plain.matmul}, {chosen.dtype: plain.weight.nbytes}
    for kind in chosen.types.split(","):
        for has_byte_rows in (False, True):
            layer = random_layer(kind, outputs, inputs, has_byte_rows)
            for build, its in builds.items():
                packed, name = (
                    GgufWeights.from_layer(layer, its, MatmulWorkspace()),
                    f"{build}{kind}{' x int8' * has_byte_rows}",
                )
                ways[name], nbytes[name] = packed.matmul, packed.weight.nbytes
    took = {(name, count): list[float]() for name in ways for count in chosen.rows}
    for _ in range(chosen.rounds):
        for count in chosen.rows:
            rows = torch.randn(count, inputs).to(dtype)
            for name, product in ways.items():
                took[name, count].append(seconds(product, rows))
    print(head_line(["bench/block_speed.py", *sys.argv[1:]], 1))
    print(f"\n{outputs} outputs, {inputs} inputs; {chosen.rounds} rounds by turns: median (least..most)\n")
    head, lines, many = ["GFLOP/s", "GB/s at 1 row"], [], {}
    for name in ways:
        rates = {n: [2 * n * outputs * inputs / one / 1e9 for one in took[name, n]] for n in chosen.rows}
        read = median(nbytes[name] / one / 1e9 for one in took[name, chosen.rows[0]])
        lines.append([name, f"{read:.1f}", *(spread(rates[n], 0) for n in chosen.rows)])
        many[name] = [
            median(a / b for a, b in zip(took[chosen.dtype, n], took[name, n], strict=True))
            for n in chosen.rows
        ]
    head[1] = f"GB/s at {chosen.rows[0]} rows"
    print(markdown([*head, *(f"{n} rows" for n in chosen.rows)], lines))
    print(f"\nTimes as fast as {chosen.dtype}, medians of the rounds:\n")
    print(
        markdown(
            ["", *(f"{n} rows" for n in chosen.rows)],
            [[a, *(f"{x:.2f}" for x in b)] for a, b in many.items()],
        )
    )
    if chosen.against:
        lines = [
            [
                name,
                *(
                    f"{median(a / b for a, b in zip(took[f'before {name}', n], took[name, n], strict=True)):.2f}"
                    for n in chosen.rows
                ),
            ]
            for name in ways
            if f"before {name}" in ways
        ]
        print("\nTimes as fast as the other build:\n")
        print(markdown(["", *(f"{n} rows" for n in chosen.rows)], lines))


if __name__ == "__main__":
    main()
