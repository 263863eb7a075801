"""How long does a comparison of many runs take? `python bench/compare_scale.py [--runs 1000] [--samples 200]`.

It writes the store of a grid: each run has its job folder and its artifacts, written by the runner's own recorder and
tracker, with random answers. Then every tenth job folder is deleted, as if another machine had run it, so that its
samples must come from MLflow. Then `runner-compare` compares all runs with the baselines of their seeds in a process of
its own, and once more with a clock on its parts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from heading import parse_arguments
from latest import Figure, add_option, save

from runner.config.root import RunnerConfig, TrackingConfig
from runner.records import flat_config, run_names
from runner.records.jobs import Recorder, create_job_with_hashed_id, lock_job
from runner.scorers.totals import score_samples
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tracking.sink import create_mlflow_sink
from runner_base import Answer, FinishReason, Progress, Record, Result, Sample, Status, Verdict
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import RopeConfig

KINDS: list[Callable[[], QuantizationConfig]] = [
    QuantizationConfig,
    Int8Config,
    Nf4Config,
    lambda: Nf4Config(double_quant=False),
]
ACCURACIES = [0.80, 0.79, 0.74, 0.78]
LIMIT_S = 10.0

CLOCKED = """
import collections, functools, json, sys, time
begun = time.perf_counter()
spent = collections.Counter()
def clock(module, name, label):
    original = getattr(module, name)
    @functools.wraps(original)
    def timed(*arguments, **named):
        started = time.perf_counter()
        try:
            return original(*arguments, **named)
        finally:
            spent[label] += time.perf_counter() - started
    setattr(module, name, timed)
from runner.recorded_runs import jobs_opener, sample_reader
from runner_compare import command, entry
from runner_compare.model import table
from runner_compare.statistics.methods.mcnemar import McNemarTest
spent["imports of the command"] = time.perf_counter() - begun
for module, name, label in (
    (jobs_opener, "open_mlflow_client_for_reading", "importing MLflow, opening the store"),
    (jobs_opener, "load_runs_from_mlflow_store", "asking the store for its runs"),
    (sample_reader.SampleReader, "fetch_files", "fetching samples out of MLflow"),
    (sample_reader.SampleReader, "load_run_answers", "reading samples"),
    (McNemarTest, "compute_effect", "statistics"), (table, "decide_comparisons_with_holm", "statistics"),
    (command, "build_task_tables", "table"),
):
    clock(module, name, label)
try:
    entry()
finally:
    spent["table"] -= sum(spent[part] for part in ("fetching samples out of MLflow", "reading samples", "statistics"))
    spent["everything"] = time.perf_counter() - begun
    print(json.dumps(spent), file=sys.stderr)
"""


def config_of(kind: int, seed: int, output_dir: Path) -> RunnerConfig:
    """Return one job of the grid: a quantization and a seed."""
    return RunnerConfig(
        model=LocalModelConfig(name="embedded"),
        quantization=KINDS[kind](),
        lora=LoraConfig(),
        rope=RopeConfig(),
        generation=GenerationConfig(),
        task=Gsm8kConfig(),
        tracking=TrackingConfig(),
        seed=seed,
        output_dir=str(output_dir),
    )


def sample(generator: random.Random, index: int, right: bool) -> Sample:
    """Return one answer of the embedded model's length: about 250 characters and 80 tokens."""
    question = f"Question {index}: " + "Ann has some apples and buys some more of them every day. " * 4
    steps = " ".join(str(generator.randrange(10_000)) for _ in range(45))
    return Sample(
        Answer(
            f"{steps}\n#### {42 if right else 41}",
            [generator.randrange(1000) for _ in range(80)],
            FinishReason.stop,
            extracted={"strict": "42" if right else "41", "flexible": "42" if right else "41"},
            verdict=Verdict.correct if right else Verdict.wrong,
        ),
        index=index,
        prompt_sha256=hashlib.sha256(question.encode()).hexdigest(),
        prompt_tokens=96,
        seconds=generator.random(),
        question=question,
        gold="42",
    )


def write_run(config: RunnerConfig, accuracy: float, count: int) -> Path:
    """Record and log one job with random answers; returns its folder."""
    # one for all quantizations of a seed: they agree on most questions
    generator = random.Random(config.seed)
    job = create_job_with_hashed_id(config, 1, {}, is_measurement=False)
    with lock_job(job):
        recorder = Recorder(job)
        for index in range(count):
            recorder.append_sample(sample(generator, index, generator.random() < accuracy))
        recorder.close()
        speed = {
            "load_s": 0.1,
            "weight_mib": 8.0,
            "peak_rss_mib": 600.0,
            "decode_tok_per_s": 900.0,
            "seconds": 3.0,
        }
        record = Record(
            job.job_id,
            Status.FINISHED,
            str(job.folder),
            Result(
                score_samples(list(recorder.done.values())) | speed,
                facts={"device": "cpu", "dtype": "bfloat16"},
            ),
            task=config.task.name,
            task_version=1,
            name=run_names.create_run_name(config),
            params=dict(flat_config.flatten_config(config)),
        )
        (job.folder / "config.yaml").write_text(json.dumps(asdict(config), default=str))
        (job.folder / "log.txt").write_text("drawn\n")
        sink = create_mlflow_sink(config, job)
        sink.start_run(record)
        sink.finish(record)
    return job.folder


def fill(output_dir: Path, runs: int, count: int) -> None:
    """Write the whole store."""
    with Progress(runs, "writing runs") as bar:
        for number in range(runs):
            kind, seed = number % len(KINDS), number // len(KINDS)
            folder = write_run(config_of(kind, seed, output_dir), ACCURACIES[kind], count)
            if number % 10 == 9:
                shutil.rmtree(folder)
            bar.advance()


def main() -> int:
    """Write, compare, print; 1 if the comparison takes longer than the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="keep the store here, and take it from here the next time"
    )
    add_option(parser)
    options = parse_arguments(parser)
    with tempfile.TemporaryDirectory() as scratch:
        output_dir = (options.folder or Path(scratch)).absolute()
        started = time.perf_counter()
        print(f"python bench/compare_scale.py --runs {options.runs} --samples {options.samples}")
        if not (output_dir / "mlflow.db").exists():
            fill(output_dir, options.runs, options.samples)
            print(f"written in {time.perf_counter() - started:.0f} s")
        size_mib = sum(file.stat().st_size for file in output_dir.rglob("samples.jsonl")) / 2**20
        print(f"the store: {size_mib:,.0f} MiB of samples, with MLflow's copies")
        arguments = ["--output-dir", str(output_dir), "--baseline", "quantization=none"]
        times = []
        for _ in range(options.repeats):
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "runner_compare", *arguments],
                capture_output=True,
                text=True,
                check=True,
            )
            times.append(time.perf_counter() - started)
        # rows that show the same share a line
        found = re.search(r"of ([\d,]+) comparisons", done.stdout, re.IGNORECASE)
        compared = int(found[1].replace(",", "")) if found else 0
        print(f"runner-compare: {compared:,} comparisons")
        median = statistics.median(times)
        print(
            f"whole process, median of {len(times)}     {median:6.2f} s   ({min(times):.2f}..{max(times):.2f})"
        )
        clocked = subprocess.run([sys.executable, "-c", CLOCKED, *arguments], capture_output=True, text=True)
        assert clocked.returncode == 0, clocked.stderr
        for label, seconds in json.loads(clocked.stderr.splitlines()[-1]).items():
            print(f"  {label:36s}{seconds:6.2f} s", flush=True)
    if options.save:
        save([Figure.of(f"runner-compare of {options.runs:,} runs", "s", times)])
    return 0 if median <= LIMIT_S and compared == sum(n % len(KINDS) != 0 for n in range(options.runs)) else 1


if __name__ == "__main__":
    sys.exit(main())
