"""How much time does a grid take besides its jobs' work? `python bench/grid_overhead.py [--jobs 1000]`.

A grid of stub jobs (no weights, two questions each, logged to MLflow) is planned, run, and started again. For
comparison the same jobs run as plain function calls in one process. One worker, so that both run one job at a time.
Then 24 jobs on the embedded model show how often the base is loaded.
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

from heading import parse_arguments
from latest import Figure, add_option, save

LOOP = """
import sys, time
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner.config.model import StubConfig
from runner.config.root import RunnerConfig, TrackingConfig
from runner_engine.settings.rope import RopeConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_engine.quantization.base import QuantizationConfig
from runner.run import run
jobs, folder = int(sys.argv[1]), sys.argv[2]
def config(seed):
    return RunnerConfig(model=StubConfig(), quantization=QuantizationConfig(), lora=LoraConfig(), rope=RopeConfig(),
        generation=GenerationConfig(), task=Gsm8kConfig(limit=2), tracking=TrackingConfig(),
        seed=seed, output_dir=folder)
run(config(10**6))  # imports and the database do not count
started = time.perf_counter()
for seed in range(jobs):
    run(config(seed))
print(time.perf_counter() - started)
"""


def timed(command: list[str], folder: Path) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Run a command to its end; returns its wall-clock seconds and its output."""
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    return time.perf_counter() - started, done


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1000)
    add_option(parser)
    options = parse_arguments(parser)
    jobs: int = options.jobs
    runner = [sys.executable, "-m", "runner"]
    grid = [*runner, "-m", "model=stub", "task.limit=2", f"seed=range(0,{jobs})", "workers=1"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"python bench/grid_overhead.py --jobs {jobs}")
        plan_s, _ = timed([*grid, "plan=true"], folder)
        print(f"plan of {jobs} jobs                    {plan_s:8.1f} s")
        one_s, _ = timed(
            [*runner, "-m", "model=stub", "task.limit=2", "seed=1000000", "workers=1", "print=none"], folder
        )
        run_s, _ = timed([*grid, "print=none"], folder)
        print(f"run to the end                        {run_s:8.1f} s   ({run_s / jobs * 1000:.0f} ms a job)")
        again_s, again = timed([*grid, "print=json"], folder)
        assert len(again.stdout.splitlines()) == jobs
        assert f"{jobs} done" in again.stderr
        print(f"second start: all {jobs} done            {again_s:8.1f} s")
        loop_s = float(timed([sys.executable, "-c", LOOP, str(jobs), str(folder / "loop")], folder)[1].stdout)
        print(
            f"the same as a loop of calls           {loop_s:8.1f} s   ({loop_s / jobs * 1000:.0f} ms a job)"
        )
        overhead_ms = (run_s - one_s - loop_s) / jobs * 1000
        print(f"a grid of one job: start-up           {one_s:8.1f} s")
        print(f"overhead a job, start-up left out     {overhead_ms:8.1f} ms   (start-up included: "
              f"{(run_s - loop_s) / jobs * 1000:.1f} ms)")  # fmt: skip
        shared = [*runner, "-m", "task.limit=2", "seed=range(0,12)", "task.split=test,hard5", "print=json"]
        _, done = timed(shared, folder)
        loads = sum(json.loads(line)["metrics"]["base_loads"] for line in done.stdout.splitlines())
        print(f"24 jobs on one base loaded it         {loads:8.0f} time(s)")
    if options.save:
        each = f"each of {jobs:,} jobs"
        save([
            Figure.of(f"plan of {jobs:,} jobs", "s", [plan_s]),
            Figure.of(each, "ms", [run_s / jobs * 1000], "in the grid"),
            Figure.of(each, "ms", [loop_s / jobs * 1000], "as a loop of calls"),
            Figure.of("second start, all done", "s", [again_s]),
        ])  # fmt: skip


if __name__ == "__main__":
    main()
