"""Does a job take as long as its plan says? `python bench/time_prediction.py [--models …] [--quantizations …]`.

Random-weight checkpoints. For each, the plan calibrates in a folder of its own, then the job runs: one cell of a sweep,
whole processes, so loading and all that is beside the passes count. The calibration and the job are `--rounds` times
done anew, and the median of both is shown with the worst single round, since a shared machine changes meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from hydra.types import RunMode

from runner.checkpoints.resolve import resolve
from runner.config.hydra import hydra_of, to_config, without_hydra
from runner.core import machine
from runner.estimates.jobs import estimate
from runner.estimates.speed import Source

MODELS = "smollm2_135m,qwen2_05b_instruct,llama32_1b"
QUANTIZATIONS = "none,int8,nf4"
CELL = ("task=sweep", "task.batch_sizes=[4]", "task.prompt_tokens=[128]", "task.new_tokens=48", "task.warmup=0")


def main() -> None:
    """Predict, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS, help="presets of conf/model (default: %(default)s)")
    parser.add_argument("--quantizations", default=QUANTIZATIONS)
    parser.add_argument("--repeats", type=int, default=3, help="of the cell, within a job")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    print(f"python bench/time_prediction.py --repeats {options.repeats} --rounds {options.rounds}")
    print(machine.name())
    heads = ("predicted_s", "measured_s", "off", "worst", "plan_s")
    print(f"{'model':20} {'quantization':13}" + "".join(f"{head:>12}" for head in heads) + "  beside it")
    for model in options.models.split(","):
        for quantization in options.quantizations.split(","):
            rounds = [one_round(model, quantization, options.repeats) for _ in range(options.rounds)]
            predicted, measured, plan_s, company = zip(*rounds, strict=True)
            off = median(predicted) / median(measured) - 1
            worst = max((one / other - 1 for one, other, *_ in rounds), key=abs)
            figures = f"{median(predicted):12.1f}{median(measured):12.1f}{off:12.0%}{worst:12.0%}{median(plan_s):12.1f}"
            print(f"{model:20} {quantization:13}{figures}  {company[0]}", flush=True)


def one_round(model: str, quantization: str, repeats: int) -> tuple[float, float, float, str]:
    """Return the predicted and the measured seconds, those of the plan, and what else ran meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        asked = [f"model={model}", "model.random_weights=true", f"quantization={quantization}", *CELL]
        asked += [f"task.repeats={repeats}", "tracking=none", f"output_dir={folder}"]
        company = machine.Company()
        started = time.perf_counter()
        predicted = predict(asked, Path(folder))
        plan_s = time.perf_counter() - started
        done = json.loads(run(*asked, "print=json"))
        return predicted, float(done["metrics"]["seconds"]), plan_s, company.describe()


def predict(asked: list[str], folder: Path) -> float:
    """Return the seconds that the plan shows, calibrated anew."""
    composed = hydra_of().compose_config("config", asked, RunMode.RUN, with_log_configuration=False)
    config = to_config(without_hydra(composed)[0])
    said = estimate({0: (config, resolve(config))}, folder, calibrate=True, on_line=lambda _: None)[0].time
    if said is None or said.source is not Source.calibrated:
        sys.exit(f"{asked[0]}: nothing was calibrated")
    return said.seconds


def run(*arguments: str) -> str:
    """Run the runner and return its stdout."""
    command = [sys.executable, "-m", "runner", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout


if __name__ == "__main__":
    main()
