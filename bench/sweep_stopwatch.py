"""Does a sweep agree with a stopwatch? `python bench/sweep_stopwatch.py [--pairs 25]`.

The sweep's own measurement of a cell on the engine's plain path (model.attention=sdpa), beside a stopwatch around
transformers' own `generate` on a model that transformers has loaded by itself: the same checkpoint, threads, attention,
batch sizes, prompt lengths and new tokens. One process, by turns, since other programs on the machine then slow both
alike; what counts is the ratio of each pair. The stopwatch shares no code with the sweep: the time of `generate` for
one token is the time to the first token, that for all tokens is the whole, and the difference is decoding.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from engines import head_line, markdown, model_folder, spread
from heading import parse_arguments
from transformers import AutoModelForCausalLM

from runner.config.measures import SweepConfig
from runner.config.resolved import resolve_job
from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.core.energy import EnergyCounters
from runner.engines import create_lazy_engine
from runner.speed.cells import Cell, CellRunner, create_sweep_cells
from runner_base import Dtype
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import RopeConfig

FIGURES = {"ttft_s": "first token, ms", "seconds": "whole batch, ms", "decode_tok_per_s": "decode, tokens/s"}


def sweeping(options: argparse.Namespace, folder: Path) -> tuple[CellRunner, list[Cell]]:
    """Return a sweep's stopwatch on a loaded engine, and its cells."""
    task = SweepConfig(
        batch_sizes=options.batches, prompt_tokens=options.prompts, new_tokens=options.new_tokens
    )
    model = LocalModelConfig(
        name=str(folder),
        device="cpu",
        dtype=Dtype(options.dtype),
        threads=options.threads,
        attention=Attention.sdpa,
    )
    config = RunnerConfig(
        model=model,
        quantization=QuantizationConfig(),
        lora=LoraConfig(),
        rope=RopeConfig(),
        generation=GenerationConfig(),
        task=task,
        tracking=NoTrackingConfig(),
    )
    engine = create_lazy_engine(resolve_job(config))
    return CellRunner(engine, engine.load(), 0, None, EnergyCounters()), create_sweep_cells(task)


class Generate:
    """A stopwatch around `generate`."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.random = random.Random(7)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        self.model.generation_config.eos_token_id = None

    def run(self, batch: int, prompt: int, new: int) -> dict[str, float]:
        """Return the three figures of one batch."""
        first, whole = self.seconds(batch, prompt, 1), self.seconds(batch, prompt, new)
        return {
            "ttft_s": first,
            "seconds": whole,
            "decode_tok_per_s": batch * (new - 1) / max(whole - first, 1e-9),
        }

    def seconds(self, batch: int, prompt: int, new: int) -> float:
        """Return how long one call takes."""
        ids = torch.tensor([[self.random.randrange(100, 500) for _ in range(prompt)] for _ in range(batch)])
        started = time.perf_counter()
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
        took = time.perf_counter() - started
        assert out.shape == (batch, prompt + new)
        return took


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a median from ranks, without an assumption about the
    distribution."""
    ordered, n = sorted(values), len(values)
    below, rank = 0.0, 0
    while below + math.comb(n, rank) / 2**n <= 0.025:
        below += math.comb(n, rank) / 2**n
        rank += 1
    return ordered[max(rank - 1, 0)], ordered[n - max(rank, 1)]


def main() -> None:
    """Measure by turns and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="random", help="random, embedded or a FOLDER")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=25)
    options = parse_arguments(parser)
    folder = model_folder(options.model)
    sweep, cells = sweeping(options, folder)
    generate = Generate(folder, options.dtype)
    assert torch.get_num_threads() == options.threads
    pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {cell.key: [] for cell in cells}
    for number, cell in product(range(options.pairs + 1), cells):
        shape = cell.batch_size, cell.prompt_tokens, cell.new_tokens
        theirs = generate.run(*shape) if number % 2 else None
        ours = sweep.run_sweep_cell(cell, number)
        theirs = theirs or generate.run(*shape)
        if ours is None:
            raise SystemExit(f"{cell.key}: {cell.note}")
        if number:  # the first one warms up
            pairs[cell.key].append((ours, theirs))
    print(head_line(["bench/sweep_stopwatch.py", *sys.argv[1:]], options.threads))
    print(f"notes: {[render_engine_note(note) for note in sweep.engine.stats.notes]}\n")
    rows = []
    for cell, (figure, words) in product(cells, FIGURES.items()):
        scale = 1000 if words.endswith("ms") else 1
        sides = [[scale * one[figure] for one in side] for side in zip(*pairs[cell.key], strict=True)]
        ratios = [a / b for a, b in zip(*sides, strict=True)]
        low, high = median_interval(ratios)
        verdict = "within noise" if low <= 1 <= high else "differs"
        what = f"batch {cell.batch_size}, prompt {cell.prompt_tokens}: {words}"
        rows.append(
            [what, *map(spread, sides), f"{statistics.median(ratios):.3f} ({low:.3f}..{high:.3f})", verdict]
        )
    print(markdown(["cell", "sweep", "stopwatch", "ratio of a pair (95 %)", ""], rows))


if __name__ == "__main__":
    main()
