"""How does the time per token change as work grows? `python bench/scale.py [--only questions shapes contexts]`.

Three curves, each run in a fresh process: GSM8K questions with worked examples from 32 to all 1,319; shapes from 135
million to 1.5 billion parameters; and rows without a shared prefix, from 512 to 16,384 tokens. Each is compared with
the least possible time of this machine: all products at its matrix rate, or all reading of weights, keys and values at
its bandwidth, whichever is longer (the roofline). Rates are measured in the same run. The picture goes to
--picture.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from engines import Job, Outcome, head_line, markdown, model_folder, run_fresh
from gsm8k_vs_lmeval import add_options, load_prompts

from runner.checkpoints import random_weights
from runner.config.compose import choose
from runner.config.model import LocalModelConfig
from runner.core.drawing import FRONT, GOOD, LINE, MUTED, STYLE
from runner.core.dtypes import BYTES
from runner.engines.local.rates import read_rate

CURVES = ("questions", "shapes", "contexts")
QUESTIONS = (32, 128, 512, 1319)
SHAPES = ("smollm2_135m", "qwen2_05b_instruct", "llama32_1b", "qwen25_15b_instruct")
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384)
ROWS = 4  # of a context


@dataclass
class Point:
    """One run: its position on the curve, the time per new token, the least possible time, and memory."""

    x: float
    name: str
    ms: float
    least_ms: float
    peak_mib: float


def shape_folder(preset: str) -> Path:
    """Return the folder of a preset's shape with random weights."""
    model = choose(["model"], {"model": preset}, {})["model"]
    assert isinstance(model, LocalModelConfig)
    return random_weights.make(replace(model, random_weights=True))


def longer(folder: Path, positions: int) -> Path:
    """Return a folder with the same weights and room for more positions, which random weights allow."""
    copy = folder.with_name(f"{folder.name}-{positions}")
    if not (copy / "config.json").is_file():
        shutil.copytree(folder, copy, copy_function=lambda one, other: Path(other).hardlink_to(one))
        settings = json.loads((copy / "config.json").read_text()) | {"max_position_embeddings": positions}
        (copy / "config.json").unlink()
        (copy / "config.json").write_text(json.dumps(settings))
    return copy


def least_s(job: Job, outcome: Outcome, gb_per_s: float) -> float:
    """Return the seconds that products alone, or reading alone, would take at the machine's best."""
    settings: dict[str, Any] = json.loads((Path(job.folder) / "config.json").read_text())
    heads, size = settings["num_attention_heads"], BYTES[job.dtype]
    dim = settings.get("head_dim") or settings["hidden_size"] // heads
    kv_heads = settings.get("num_key_value_heads") or heads
    prompts, new = outcome.prompt_tokens, job.new_tokens
    seen = sum(count * count / 2 + count * most + most * most / 2 for count, most in zip(prompts, new, strict=True))
    flop = 2 * (outcome.layer_parameters * outcome.positions + outcome.head_parameters * outcome.logit_rows)
    flop += 4 * settings["num_hidden_layers"] * heads * dim * seen
    rows = max(outcome.peak_rows, 1)
    steps = math.ceil(len(prompts) / rows) * max(new)
    weights = (outcome.layer_parameters + outcome.head_parameters) * size
    places = sum(most * (count + most / 2) for count, most in zip(prompts, new, strict=True))
    if outcome.positions < sum(prompts):  # a shared prefix is read once per step, not once per row
        places = sum(most * most / 2 for most in new) + steps * max(prompts)
    read = steps * weights + places * 2 * settings["num_hidden_layers"] * kv_heads * dim * size
    products_s, reading_s = flop / max(outcome.gflop_per_s.values()) / 1e9, read / gb_per_s / 1e9
    return float(max(products_s, reading_s))


def measure(job: Job, x: float, name: str, repeats: int) -> Point:
    """Run a job some times; the median is the point."""
    runs = [run_fresh(job) for _ in range(repeats)]
    took, tokens = statistics.median(run.total_s for run in runs), sum(job.new_tokens)
    least = statistics.median(least_s(job, run, read_rate(torch.device("cpu"))) for run in runs)
    return Point(x, name, took / tokens * 1000, least / tokens * 1000, max(run.peak_mib for run in runs))


def curve(which: str, options: argparse.Namespace, job: Job) -> list[Point]:
    """Measure one curve."""
    points = []
    if which == "contexts":
        folder = longer(Path(job.folder), 2 * CONTEXTS[-1])
        draw = random.Random(0)
        for length in options.contexts:
            prompts = [draw.choices(range(3, 40_000), k=length) for _ in range(ROWS)]
            some = replace(job, folder=str(folder), prompts=prompts, new_tokens=[options.new_tokens] * ROWS)
            points.append(measure(some, length, f"{length:,} tokens", options.repeats))
        return points
    most = max(options.counts) if which == "questions" else 32
    sizes = options.counts if which == "questions" else [most] * len(options.shapes)
    folders = [Path(job.folder)] * len(sizes) if which == "questions" else list(map(shape_folder, options.shapes))
    for number, (count, folder) in enumerate(zip(sizes, folders, strict=True)):
        texts = load_prompts(folder, options.gsm8k or "embedded", count, options.shots, chat=False)
        some = replace(job, folder=str(folder), prompts=texts, new_tokens=[options.new_tokens] * len(texts))
        name = f"{len(texts):,} questions" if which == "questions" else options.shapes[number]
        x = len(texts) if which == "questions" else parameters(folder) / 1e6
        points.append(measure(some, x, name, options.repeats))
    return points


def parameters(folder: Path) -> int:
    """Count a checkpoint's parameters, by its headers."""
    settings = json.loads((folder / "config.json").read_text())
    return sum(tensor.params for tensor in random_weights.list_tensors(settings))


def draw_curves(curves: dict[str, list[Point]], dtype: str, picture: Path) -> None:
    """Draw time and memory for each curve."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    words = {
        "questions": "questions (5 worked examples, shared)",
        "shapes": "million parameters (32 questions)",
        "contexts": f"tokens of context ({ROWS} rows, nothing shared)",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4 * len(curves), 5.6), layout="constrained")
        panes = figure.subplots(2, len(curves), squeeze=False, sharex="col")
        for at, (which, points) in enumerate(curves.items()):
            x = [point.x for point in points]
            above, below = panes[0][at], panes[1][at]
            above.plot(x, [point.ms for point in points], "o-", color=FRONT, label="runner")
            above.plot(x, [point.least_ms for point in points], "--", color=MUTED, label="least that is possible here")
            below.plot(x, [point.peak_mib for point in points], "s-", color=GOOD)
            above.set_yscale("log")
            for pane in (above, below):
                pane.set_xscale("log")
                pane.grid(color=LINE, linewidth=0.6)
            below.set_ylim(bottom=0)
            below.set_xlabel(words[which])
            below.set_xticks(x, [f"{value:,.0f}" for value in x], rotation=30)
            below.minorticks_off()
        panes[0][0].set_ylabel("ms a new token, prompts included")
        panes[1][0].set_ylabel("peak memory, MiB")
        panes[0][0].legend(frameon=False)
        figure.suptitle(f"What a token costs as work grows: {dtype}")
        figure.savefig(picture, dpi=150, metadata={"Software": None})


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CURVES, default=list(CURVES))
    add_options(parser)
    parser.set_defaults(new_tokens=32, repeats=1)
    parser.add_argument("--counts", type=int, nargs="+", default=list(QUESTIONS), help="of questions")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="presets of conf/model")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS), help="tokens of each row's prompt")
    parser.add_argument("--picture", type=Path, default=Path("outputs/scale.png"))
    options = parser.parse_args()
    folder = model_folder("random")
    trial = run_fresh(Job("stream", str(folder), options.dtype, [[5, 6, 7]], [2], None, threads=options.threads))
    job = Job("stream", str(folder), options.dtype, [], [], None, threads=trial.threads)
    print(f"{head_line(sys.argv, trial.threads)}\n", flush=True)
    curves = {}
    for which in options.only:
        points = curves[which] = curve(which, options, job)
        rows = [
            [point.name, f"{point.ms:.3g}", f"{point.least_ms:.3g}", f"{point.least_ms / point.ms:.0%}",
             f"{point.peak_mib:,.0f}"]
            for point in points
        ]  # fmt: skip
        print(markdown([which, "ms a new token", "least possible", "share of it", "peak MiB"], rows), "\n", flush=True)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(curves, options.dtype, options.picture)
    print(f"drawn: {options.picture}")


if __name__ == "__main__":
    main()
