"""Does a job take as long as its plan says? `python bench/time_prediction.py [--models …] [--quantizations …]`.

Random-weight checkpoints. For each, the plan calibrates in a folder of its own, then the job runs: one cell of a sweep,
whole processes, so loading and everything besides the passes counts. The plan is for a machine without other work. With
other work, `measured` includes its share; `quiet` replaces each repeat of the cell by the fastest one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from heading import parse_arguments

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.resolved import resolve_job
from runner.estimates.jobs import estimate_memory_and_time
from runner.estimates.speed import EstimateBasis
from runner_base import machine
from tools.commands import jobs

MODELS = "smollm2_135m,qwen2_05b_instruct,llama32_1b"
QUANTIZATIONS = "none,int8,nf4"
ROWS, PROMPT = 4, 128
CELL = (
    "task=sweep",
    f"task.batch_sizes=[{ROWS}]",
    f"task.prompt_tokens=[{PROMPT}]",
    "task.new_tokens=48",
    "task.warmup=0",
)


def main() -> None:
    """Predict, run, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=MODELS, help="presets of conf/model (default: %(default)s)")
    parser.add_argument("--quantizations", default=QUANTIZATIONS)
    parser.add_argument("--repeats", type=int, default=3, help="of the cell, within a job")
    parser.add_argument("--rounds", type=int, default=1)
    options = parse_arguments(parser)
    print(f"python bench/time_prediction.py --repeats {options.repeats} --rounds {options.rounds}")
    print(machine.describe_hardware())
    heads = ("predicted_s", "measured_s", "off", "quiet_s", "off", "plan_s")
    print(f"{'model':20} {'quantization':13}" + "".join(f"{head:>12}" for head in heads) + "  beside it")
    for model in options.models.split(","):
        for quantization in options.quantizations.split(","):
            rounds = [one_round(model, quantization, options.repeats) for _ in range(options.rounds)]
            predicted, measured, quiet, plan_s = (
                median(column) for column in zip(*(it[:4] for it in rounds), strict=True)
            )
            figures = f"{predicted:12.1f}{measured:12.1f}{predicted / measured - 1:12.0%}"
            figures += f"{quiet:12.1f}{predicted / quiet - 1:12.0%}{plan_s:12.1f}"
            print(f"{model:20} {quantization:13}{figures}  {rounds[0][4]}", flush=True)


def one_round(model: str, quantization: str, repeats: int) -> tuple[float, float, float, float, str]:
    """Return the predicted, measured and quiet seconds, those of the plan, and what else ran
    meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"model={model}", "model.random_weights=true", f"quantization={quantization}", *CELL]
        overrides += [f"task.repeats={repeats}", "tracking=none", f"output_dir={folder}"]
        contention = machine.Contention()
        started = time.perf_counter()
        predicted = predict(overrides, Path(folder))
        plan_s = time.perf_counter() - started
        metrics: dict[str, float] = jobs(*overrides)[0]["metrics"]
        times = repeats_s(Path(folder))
        quiet = metrics["seconds"] - sum(times) + len(times) * min(times)
        return predicted, metrics["seconds"], quiet, plan_s, contention.describe_competing_load()


def repeats_s(folder: Path) -> list[float]:
    """Return the seconds of each repeat of the cell."""
    (file,) = folder.glob("jobs/*/repeats.jsonl")
    lines = map(json.loads, file.read_text().splitlines())
    return [
        float(line["value"]) for line in lines if line["measure"] == f"seconds/batch_{ROWS}_prompt_{PROMPT}"
    ]


def predict(overrides: list[str], folder: Path) -> float:
    """Return the seconds that the plan shows, calibrated anew."""
    config = to_runner_config(*compose_job(overrides))
    time_estimate = estimate_memory_and_time(
        {0: resolve_job(config)},
        folder,
        should_calibrate=True,
        print_line=lambda _: None,
        max_time_fraction=math.inf,
    )[0].time
    if time_estimate is None or time_estimate.source is not EstimateBasis.calibrated:
        sys.exit(f"{overrides[0]}: nothing was calibrated")
    return time_estimate.seconds


if __name__ == "__main__":
    main()
