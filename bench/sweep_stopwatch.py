"""Does a sweep say what a stopwatch says? `python bench/sweep_stopwatch.py [--rounds 5]`.

`runner task=sweep` on the engine's plain path (model.attention=sdpa) beside a stopwatch around transformers' own
`generate`: the same checkpoint, threads, attention, batch sizes, prompt lengths and new tokens. Fresh processes, by
turns. The stopwatch shares no code with the sweep: the time of `generate` for one token is the time to the first
token, that for all tokens is the whole, and the difference is decoding. Of each process the quickest of its repeats
counts: other programs only ever add time. A difference is one where the exact rank sum test over the processes says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from engines import head_line, markdown, model_folder, spread

from runner.core import stats

FIGURES = {
    "ttft_s_min": "first token, ms",
    "seconds_min": "whole batch, ms",
    "decode_tok_per_s_max": "decode, tokens/s",
}
Found = dict[str, float]  # figure/cell -> the quickest of a process's repeats


def name(figure: str, batch: int, prompt: int) -> str:
    """Name a cell's figure as the sweep does."""
    return f"{figure}/batch_{batch}_prompt_{prompt}"


def by_sweep(options: argparse.Namespace, folder: Path) -> Found:
    """Run the sweep as a user does, and read its metrics."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable, "-m", "runner", "model=auto", f"model.name={folder}", "model.attention=sdpa",
            f"model.dtype={options.dtype}", "model.device=cpu", f"model.threads={options.threads}", "task=sweep",
            f"task.batch_sizes=[{options.batches}]", f"task.prompt_tokens=[{options.prompts}]",
            f"task.new_tokens={options.new_tokens}", f"task.repeats={options.repeats}", "task.pictures=false",
            "tracking=none", "print=json", f"output_dir={scratch}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the sweep failed:\n{done.stderr[-2000:]}")
        metrics: Found = json.loads(done.stdout)["metrics"]
        return metrics


def by_stopwatch(_: argparse.Namespace, folder: Path) -> Found:
    """Run this file as the other side."""
    command = [sys.executable, __file__, *sys.argv[1:], "--stopwatch", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"generate failed:\n{done.stderr[-2000:]}")
    found: Found = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def stopwatch(options: argparse.Namespace) -> Found:
    """Time transformers' `generate`, after a warm-up, cell by cell and round by round."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(options.stopwatch, dtype=dtype, attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    random_ids = random.Random(7)

    def seconds(batch: int, prompt: int, new: int) -> float:
        ids = torch.tensor([[random_ids.randrange(100, 500) for _ in range(prompt)] for _ in range(batch)])
        settings = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        started = time.perf_counter()
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
        took = time.perf_counter() - started
        assert out.shape == (batch, prompt + new)
        return took

    times: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for number in range(options.repeats + 1):
        for batch, prompt in product(numbers(options.batches), numbers(options.prompts)):
            first, whole = (seconds(batch, prompt, new) for new in (1, options.new_tokens))
            if number:
                times.setdefault((batch, prompt), []).append((first, whole))
    found: Found = {}
    for (batch, prompt), taken in times.items():
        first, whole = (min(several) for several in zip(*taken, strict=True))
        speed = batch * (options.new_tokens - 1) / (whole - first)
        for figure, value in zip(FIGURES, (first, whole, speed), strict=True):
            found[name(figure, batch, prompt)] = value
    return found


def numbers(text: str) -> list[int]:
    """Read `1,4`."""
    return [int(one) for one in text.split(",")]


def table(options: argparse.Namespace, ours: Sequence[Found], theirs: Sequence[Found]) -> str:
    """Return both sides with their spread over processes, their ratio, and whether they differ."""
    rows = []
    for batch, prompt in product(numbers(options.batches), numbers(options.prompts)):
        for figure, words in FIGURES.items():
            key, scale = name(figure, batch, prompt), 1000 if words.endswith("ms") else 1
            sides = [[scale * one[key] for one in side] for side in (ours, theirs)]
            low, high = stats.bootstrap_ratio_interval(*sides)
            p = stats.rank_sum_exact(*sides)
            ratio = statistics.median(sides[0]) / statistics.median(sides[1])
            said = "differs" if p < 0.05 else "within noise"
            cell = f"batch {batch}, prompt {prompt}: {words}"
            rows.append([cell, *map(spread, sides), f"{ratio:.3f} ({low:.3f}..{high:.3f})", f"{p:.2f}", said])
    return markdown(["cell", "sweep", "stopwatch", "ratio (95 %)", "p", ""], rows)


def main() -> None:
    """Measure by turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random", help="random, embedded or a FOLDER")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--prompts", default="64,256")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5, help="in each process")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side")
    parser.add_argument("--stopwatch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stopwatch:
        print(json.dumps(stopwatch(options)))
        return
    folder = model_folder(options.model)
    ours: list[Found] = []
    theirs: list[Found] = []
    for number in range(options.rounds):  # each is first by turns
        sides = [(ours, by_sweep), (theirs, by_stopwatch)]
        for side, measure in sides[:: 1 if number % 2 == 0 else -1]:
            side.append(measure(options, folder))
    print(head_line(["bench/sweep_stopwatch.py", *sys.argv[1:]], options.threads))
    print()
    print(table(options, ours, theirs))


if __name__ == "__main__":
    main()
