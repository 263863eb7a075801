"""One step of first_gpu.py in a process of its own, with the arguments STEP DEVICE FIGURES.json."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import first_gpu_speed
import torch
from engines import ROOT
from first_gpu_engines import (
    ALWAYS,
    DEVICE,
    NEVER,
    ON_GPU,
    ROWS,
    SHAPE,
    STEP,
    asked,
    decode_rate,
    engine_of,
    generated,
    note,
    same_start,
    tokens_of,
)

from runner.render.engine_notes import format_memory_batch_limit_note, render_engine_notes
from runner_base import Dtype, machine
from runner_engine.decode.passes import step_graphs
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.sampling import Sampling


def versions() -> None:
    """What is here, and what finds the GPUs."""
    found = {"runner": ", ".join(machine.visible_gpu_models()) or "none"}
    found["/proc"] = str(len(list(Path("/proc/driver/nvidia/gpus").glob("*/information"))))
    for name, command in {"nvidia-smi": ["nvidia-smi", "-L"]}.items():
        try:
            found[name] = subprocess.run(
                command, capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            found[name] = type(error).__name__
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
        found["NVML"] = str(pynvml.nvmlDeviceGetCount())
    except Exception as error:  # noqa: BLE001  # whatever it says, that is what was found
        found["NVML"] = type(error).__name__
    count = torch.cuda.device_count()
    name = torch.cuda.get_device_name() if count else "none"
    about = f"torch {torch.__version__} with {count} GPUs ({name}); " + "; ".join(
        f"{k}: {v}" for k, v in found.items()
    )
    note("all find the same GPUs", about, bool(count) == bool(machine.visible_gpu_models()) or not ON_GPU)
    started = time.perf_counter()
    engine = engine_of()
    note("a model loads", f"{SHAPE if ON_GPU else 'embedded'} in {time.perf_counter() - started:.1f} s", True)
    print(engine.load().facts)


def tests() -> None:
    """The engine's own tests that run on the device."""
    options = "-q --maxfail=20 -W ignore -p no:cacheprovider -p no:benchmark tests/engine"
    command = [sys.executable, "-m", "pytest", *options.split()]
    if (os.cpu_count() or 1) >= 8:
        command += ["-n", "6"]
    command += ["-k", "cuda or GPU"] if ON_GPU else ["-k", "device_step and cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-8000:], done.stderr[-2000:])
    last = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
    note("the engine's tests pass on the device", last, done.returncode == 0 and " passed" in last)


def equal() -> None:
    for is_large, rows in ((False, 64), (ON_GPU, 16)):
        engine = engine_of(Dtype.float32, is_large=is_large)
        requests = asked(engine, rows if ON_GPU else 8, 64)
        for records in (True, False):
            step_graphs.RECORD_AT = ALWAYS if records else NEVER
            ours, theirs = tokens_of(complete_requests(engine, requests)), generated(engine, requests)
            equals = sum(ours[one] == theirs[one] for one in theirs)
            starts = [same_start(ours[one], theirs[one]) for one in theirs]
            what = f"{'large' if is_large else 'embedded'}, graphs: {engine.stats.decoding_graphs or 'off'}"
            note(
                "float32 answers are those of generate",
                f"{what}: {equals} of {len(theirs)} equal, first difference after {min(starts)} tokens",
                equals >= 0.98 * len(theirs),
            )
        engine.close()


def graphs() -> None:
    """Every recorded shape is checked with changed tables; answers are those without recordings."""
    for dtype in (Dtype.float32, Dtype.bfloat16):
        engine = engine_of(dtype)
        requests = asked(engine, max(ROWS[-2], 4), 64)
        answers = []
        for records in (True, False):
            step_graphs.RECORD_AT = ALWAYS if records else NEVER
            answers.append(tokens_of(complete_requests(engine, requests)))
            print(engine.stats.decoding_graphs, render_engine_notes(engine.stats))
            if records:
                summary = engine.stats.decoding_graphs
        equals = sum(answers[0][one] == answers[1][one] for one in answers[1])
        note(
            "recorded steps give the same tokens",
            f"{dtype.value}: {summary or 'none on this device'}; {equals} of {len(requests)} answers equal",
            equals == len(requests) and (" % of steps" in summary or not ON_GPU),
        )
        engine.close()


def memory() -> None:
    """With little memory, fewer rows run at once and all answers come."""
    engine = engine_of()
    rows = 256 if ON_GPU else 8
    requests = asked(engine, rows, 512 if ON_GPU else 16)
    if ON_GPU:
        total = torch.cuda.get_device_properties(DEVICE).total_memory
        engine.load()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1.2 * 2**30) / total)
    done = tokens_of(complete_requests(engine, requests, rows))
    full = sum(len(tokens) == requests[0].max_new_tokens for tokens in done.values())
    notes = "; ".join(map(format_memory_batch_limit_note, engine.stats.row_shortages)) or "no shortage"
    note(
        "a shortage halves the rows, and nothing is lost",
        f"{full} of {rows} answers whole; {notes}",
        full == rows and ("memory" in notes or not ON_GPU),
    )
    if ON_GPU:
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                torch.ones(1, device=DEVICE).item()
            said = "no error"
        except RuntimeError as error:
            said = str(error).splitlines()[0][:80]
        torch.cuda.empty_cache()
        note("empty_cache works after a failed recording", f"it does; recording said: {said}", True)


def sampled() -> None:
    """Sampled answers are the same twice."""
    engine = engine_of()
    requests = asked(engine, ROWS[1], 64, sampling=Sampling(temperature=0.8, top_p=0.9, top_k=50, seed=5))
    first, second = (tokens_of(complete_requests(engine, requests)) for _ in range(2))
    equals = sum(first[one] == second[one] for one in first)
    rate = decode_rate(engine, requests)
    note(
        "sampled answers are the same twice",
        f"{equals} of {len(first)} equal; {rate:,.0f} tokens/s with {len(first)} rows",
        equals == len(first),
    )


def four_bit() -> None:
    """Which quantizations can be recorded."""
    for name in ("nf4", "int8") if ON_GPU else ("nf4",):
        engine = engine_of(quantization=name)
        requests = asked(engine, ROWS[1], 48)
        answers, rates = [], []
        for at in (ALWAYS, NEVER):
            step_graphs.RECORD_AT = at
            answers.append(tokens_of(complete_requests(engine, requests)))
            rates.append(decode_rate(engine, requests))
            if at == ALWAYS:
                summary = engine.stats.decoding_graphs
        equals = sum(answers[0][one] == answers[1][one] for one in answers[1])
        note(
            f"{name}: recorded, or refused with a reason",
            f"{summary or 'none on this device'}; {equals} of {len(requests)} equal; {rates[0]:,.0f} tokens/s "
            f"with, {rates[1]:,.0f} without",
            equals == len(requests),
        )
        engine.close()


def job() -> None:
    """A whole job by its command, on the embedded model."""
    words = f"-m runner task=gsm8k model=embedded model.device={DEVICE} task.limit=200 tracking=none"
    command = [sys.executable, *words.split()]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    found = re.search(r"accuracy[ │|]*([\d.]+)", done.stdout + done.stderr)
    said = f"exit code {done.returncode}, accuracy {found[1] if found else 'not found'}"
    is_right = done.returncode == 0 and found is not None and float(found[1]) > 85
    note("a job runs: accuracy of about 93 %", f"{said}, {time.perf_counter() - started:.0f} s", is_right)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    if not ON_GPU:
        os.environ["RUNNER_ATTENTION"] = "sdpa"  # the path of a GPU
    (globals() | vars(first_gpu_speed))[STEP]()
