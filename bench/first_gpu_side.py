"""One step of first_gpu.py in a process of its own: `python bench/first_gpu_side.py STEP DEVICE FIGURES.json`."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engines import ROOT, greedy_engine, random_prompts

from runner.checkpoints import random_weights
from runner.config.model import LocalModelConfig
from runner.config.sampling import Sampling
from runner.core import machine
from runner.core.dtypes import Dtype
from runner.embedded import MODEL_DIR
from runner.engines.base import Completion, Request
from runner.engines.contract import complete
from runner.engines.local.attention.device_attention import attend
from runner.engines.local.attention.parts import Scaling
from runner.engines.local.decode import step_graphs
from runner.engines.local.engine import LocalEngine, LocalSession
from runner.quantization import CHOICES

STEP, DEVICE, FIGURES = sys.argv[1:4]
ON_GPU = DEVICE.startswith("cuda")
SHAPE = "qwen2_05b_instruct"
ROWS = (1, 32, 128, 512) if ON_GPU else (1, 8)
PROMPT, NEW = (64, 128) if ON_GPU else (12, 24)
# tokens a second, and launches a step, that were expected of this design before it ran on a GPU (an H100)
EXPECTED_TOK_PER_S = {1: 190, 32: 5500, 128: 17_000, 512: 38_000}
EXPECTED_KERNELS = 1850
ALWAYS, NEVER = step_graphs.RECORD_AT, 10**9
lines: list[tuple[str, str, bool]] = []


def note(expected: str, measured: str, passed: bool) -> None:
    """Keep one line of the table."""
    lines.append((expected, measured, passed))
    print(expected, "|", measured, "|", passed, flush=True)
    Path(FIGURES).write_text(json.dumps(lines))


def engine_of(dtype: Dtype = Dtype.bfloat16, quantization: str = "none", is_large: bool = ON_GPU) -> LocalEngine:
    """Return a loaded engine: of the large shape with random weights, or the embedded model."""
    if is_large:
        folder = random_weights.make(LocalModelConfig(name=SHAPE, shape=SHAPE, random_weights=True))
    else:
        folder = MODEL_DIR
    model = LocalModelConfig(name=str(folder), device=DEVICE, dtype=dtype)
    engine = greedy_engine(model, CHOICES[quantization](), max_new_tokens=NEW)
    engine.load()
    return engine


def asked(engine: LocalEngine, rows: int, new: int = NEW, prompt: int = PROMPT, **keys: Any) -> list[Request]:
    """Return requests with prompts of random tokens that run to their limits."""
    prompts = random_prompts(engine, rows, prompt, random.Random(rows))
    return [Request(at, one, max_new_tokens=new, ignore_eos=True, **keys) for at, one in enumerate(prompts)]


def tokens_of(done: Sequence[Completion]) -> dict[Any, list[int]]:
    """Return each answer's tokens; an error ends the step."""
    if failed := [one.error for one in done if one.error]:
        raise SystemExit(f"{len(failed)} failed: {failed[0]}")
    return {one.id: one.answer.token_ids for one in done}


def decode_rate(engine: LocalEngine, requests: list[Request]) -> float:
    """Return the decoded tokens a second."""
    before = replace(engine.stats)
    tokens_of(complete(engine, requests, len(requests)))
    return (engine.stats - before).decode_tok_per_s


def same_start(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return how many tokens are equal before the first that differs."""
    return next(
        (at for at, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two), min(len(ours), len(theirs))
    )


def generated(engine: LocalEngine, requests: list[Request]) -> dict[Any, list[int]]:
    """Return transformers' own answers to prompts of equal length."""
    ids = torch.tensor([list(one.prompt) for one in requests], device=DEVICE)
    limit = requests[0].max_new_tokens
    model = engine.loaded.model
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, pad_token_id=0
        )
    return {one.id: row for one, row in zip(requests, out[:, ids.shape[1] :].tolist(), strict=True)}


# ------------------------------------------------------------------------------------------------ the steps


def versions() -> None:
    """What is here, and what finds the GPUs."""
    found = {"runner": ", ".join(machine.gpu_models()) or "none"}
    found["/proc"] = str(len(list(Path("/proc/driver/nvidia/gpus").glob("*/information"))))
    for name, command in {"nvidia-smi": ["nvidia-smi", "-L"]}.items():
        try:
            found[name] = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
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
    about = f"torch {torch.__version__} with {count} GPUs ({name}); " + "; ".join(f"{k}: {v}" for k, v in found.items())
    note("all find the same GPUs", about, bool(count) == bool(machine.gpu_models()) or not ON_GPU)
    started = time.perf_counter()
    engine = engine_of()
    note("a model loads", f"{SHAPE if ON_GPU else 'embedded'} in {time.perf_counter() - started:.1f} s", True)
    print(engine.load().facts)


def tests() -> None:
    """The engine's own tests that run on the device."""
    options = "-q --maxfail=20 -W ignore -p no:cacheprovider -p no:benchmark tests/engines/local"
    command = [sys.executable, "-m", "pytest", *options.split()]
    if (os.cpu_count() or 1) >= 8:
        command += ["-n", "6"]
    command += ["-k", "cuda or GPU"] if ON_GPU else ["-k", "device_step and cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-8000:], done.stderr[-2000:])
    last = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
    note("the engine's tests pass on the device", last, done.returncode == 0 and " passed" in last)


def equal() -> None:
    """Float32 is equal to generate, token by token."""
    for is_large, rows in ((False, 64), (ON_GPU, 16)):
        engine = engine_of(Dtype.float32, is_large=is_large)
        requests = asked(engine, rows if ON_GPU else 8, 64)
        for records in (True, False):
            step_graphs.RECORD_AT = ALWAYS if records else NEVER
            ours, theirs = tokens_of(complete(engine, requests)), generated(engine, requests)
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
            answers.append(tokens_of(complete(engine, requests)))
            print(engine.stats.decoding_graphs, engine.stats.notes)
            if records:
                summary = engine.stats.decoding_graphs
        equals = sum(answers[0][one] == answers[1][one] for one in answers[1])
        note(
            "recorded steps give the same tokens",
            f"{dtype.value}: {summary or 'none on this device'}; {equals} of {len(requests)} answers equal",
            equals == len(requests) and (" % of steps" in summary or not ON_GPU),
        )
        engine.close()


def speed() -> None:
    """Decoding, with and without recorded steps, and by generate."""
    engine = engine_of()
    for rows in ROWS:
        requests = asked(engine, rows)
        rates = {}
        for name, at, tries in (("with graphs", ALWAYS, 2), ("without", NEVER, 1)):
            step_graphs.RECORD_AT = at
            rates[name] = max(decode_rate(engine, requests) for _ in range(tries))
        few = asked(engine, rows, NEW // 4)
        started = time.perf_counter()
        generated(engine, few)
        rates["generate"] = rows * NEW // 4 / (time.perf_counter() - started)
        words = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
        expected = f"{EXPECTED_TOK_PER_S[rows]:,} tokens/s" if rows in EXPECTED_TOK_PER_S else "figures"
        fast = not ON_GPU or rates["with graphs"] > 2 * rates["generate"]
        note(f"{rows} rows: {expected}", f"{words} tokens/s", fast)


def profile() -> None:
    """Twenty steps: kernels, gaps between them, and what the host waits for."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    engine = engine_of()
    for rows in ROWS[:3]:
        for records in (True, False) if ON_GPU else (True,):
            step_graphs.RECORD_AT = ALWAYS if records else NEVER
            with engine.open(rows) as session:
                assert isinstance(session, LocalSession)
                for request in asked(engine, rows, NEW if ON_GPU else 60):
                    session.submit(request)
                for _ in range(30):
                    session.step()
                kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]
                with profiled(activities=kinds) as seen:
                    started = time.perf_counter()
                    for _ in range(20):
                        session.step()
                    host_ms = (time.perf_counter() - started) * 50
                note_profile(f"{rows} rows, {'graphs' if records else 'no graphs'}", seen, host_ms)
                if ON_GPU and rows == ROWS[1] and not records:
                    print(seen.key_averages().table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=70))


def note_profile(what: str, seen: Any, host_ms: float) -> None:
    """Note how many kernels a step has, how long the device is busy, and how often the host waits."""
    events = seen.events()
    on_device = [one for one in events if one.device_type.name == "CUDA"]
    busy_ms = sum(one.time_range.elapsed_us() for one in on_device) / 20_000
    waits = Counter(one.name for one in events if re.search("Synchronize|cudaMemcpy$", one.name))
    launches = sum(one.name.startswith(("cudaLaunch", "cudaGraphLaunch", "cuLaunch")) for one in events) / 20
    note(
        f"{what}: {EXPECTED_KERNELS:,} kernels a step, one wait",
        f"{len(on_device) / 20:,.0f} kernels, {launches:,.0f} launches, {busy_ms:.2f} of {host_ms:.2f} ms busy, "
        f"waits a step: { {name: round(count / 20, 1) for name, count in waits.items()} }",
        not ON_GPU or sum(waits.values()) <= 5 * 20,
    )
    for name, count in Counter(one.name[:90] for one in on_device).most_common(25):
        took = sum(one.time_range.elapsed_us() for one in on_device if one.name[:90] == name)
        print(f"  {count / 20:7.1f} a step {took / 20:9.1f} µs  {name}")


def prefixes() -> None:
    """Many prefixes, each shared by some rows, beside one prefix that all share."""
    engine = engine_of()
    rows, count = (512, 64) if ON_GPU else (24, 12)
    length = 200 if ON_GPU else 40
    ends = random_prompts(engine, rows, 8, random.Random(1))
    starts = random_prompts(engine, count, length, random.Random(2))
    rates = {}
    for name, of in (("one prefix", 1), (f"{count} prefixes", count)):
        prompts = [starts[at % of] + end for at, end in enumerate(ends)]
        requests = [Request(at, one, max_new_tokens=NEW, ignore_eos=True) for at, one in enumerate(prompts)]
        decode_rate(engine, requests)
        rates[name] = decode_rate(engine, requests)
        print(name, engine.stats.decoding_graphs)
    words = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    slowest, fastest = min(rates.values()), max(rates.values())
    note(f"{rows} rows: many prefixes cost less than half", f"{words} tokens/s", slowest > fastest / 2 or not ON_GPU)


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
    done = tokens_of(complete(engine, requests, rows))
    full = sum(len(tokens) == requests[0].max_new_tokens for tokens in done.values())
    notes = "; ".join(note for note in engine.stats.notes if "memory" in note) or "no shortage"
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
    first, second = (tokens_of(complete(engine, requests)) for _ in range(2))
    equals = sum(first[one] == second[one] for one in first)
    rate = decode_rate(engine, requests)
    note(
        "sampled answers are the same twice",
        f"{equals} of {len(first)} equal; {rate:,.0f} tokens/s with {len(first)} rows",
        equals == len(first),
    )


def best_us(work: Callable[[], Any], tries: int = 30) -> float:
    """Return the median microseconds of something on the device."""
    took = []
    for _ in range(tries + 5):
        if ON_GPU:
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if ON_GPU:
            torch.cuda.synchronize()
        took.append((time.perf_counter() - started) * 1e6)
    return statistics.median(took[5:])


def own_attention(rows: int, places: int, has: dict[str, bool]) -> tuple[str, bool]:
    """Time attention to the rows' own keys as it is, and by flash attention; return words, and whether it is right."""
    kv_heads, group, dim = 2, 7, 64
    dtype = torch.bfloat16 if ON_GPU else torch.float32
    keys, values = (torch.randn(rows, places, kv_heads, dim, device=DEVICE, dtype=dtype) for _ in range(2))
    query = torch.randn(rows, kv_heads * group, dim, device=DEVICE, dtype=dtype)
    used = torch.randint(1, places, (rows,), device=DEVICE, dtype=torch.int32)
    hidden = (torch.arange(places, device=DEVICE)[None] >= used[:, None])[:, None, None]
    ends = torch.arange(rows + 1, device=DEVICE, dtype=torch.int32)

    def present() -> torch.Tensor:
        grouped = query.view(rows, kv_heads, group, dim)
        out = attend(Scaling(dim**-0.5, 0.0), grouped, keys.transpose(1, 2), values.transpose(1, 2), hidden)[0]
        return out.reshape(rows, -1, dim)

    def by_flash(**splits: Any) -> torch.Tensor:
        flat = keys.flatten(0, 1), values.flatten(0, 1)
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            query, *flat, ends, ends * places, 1, places, 0.0, False, False, seqused_k=used, **splits
        )[0]
        return out

    if not ON_GPU:
        return f"present {best_us(present):.0f} µs", True
    ways: dict[str, Callable[[], torch.Tensor]] = {"present": present, "flash": by_flash}
    if has["num_splits"]:
        ways["flash, no splits"] = lambda: by_flash(num_splits=1)
    usual, words, passed = present().float(), [], True
    for name, way in ways.items():
        try:
            off = float((way().float() - usual).abs().max())
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                held = way()
            held.fill_(torch.nan)
            graph.replay()
            again = float((held.float() - usual).abs().max())
            words.append(
                f"{name} {best_us(way):.0f} µs, replayed {best_us(graph.replay):.0f} (off {off:.1g}, {again:.1g})"
            )
            passed = passed and off < 0.05 and again < 0.05
        except Exception as error:  # noqa: BLE001  # what it says is the measurement
            words.append(f"{name}: {str(error).splitlines()[0][:120]}")
            passed = False
    return "; ".join(words), passed


def attention() -> None:
    """`varlen_attn` is right, can be recorded, and how long it takes beside the present attention to own keys."""
    schema = str(torch.ops.aten._flash_attention_forward.default._schema)
    has = {name: name in schema for name in ("seqused_k", "block_table", "num_splits")}
    note("flash attention takes a block table", f"torch {torch.__version__}: {has}", True)
    for rows in ROWS:
        for places in (256, 1024) if ON_GPU else (64,):
            note(f"{rows} rows of up to {places} places: right, recorded", *own_attention(rows, places, has))


def four_bit() -> None:
    """Which quantizations can be recorded."""
    for name in ("nf4", "int8") if ON_GPU else ("nf4",):
        engine = engine_of(quantization=name)
        requests = asked(engine, ROWS[1], 48)
        answers, rates = [], []
        for at in (ALWAYS, NEVER):
            step_graphs.RECORD_AT = at
            answers.append(tokens_of(complete(engine, requests)))
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
    command = [
        sys.executable,
        "-m",
        "runner",
        "task=gsm8k",
        "model=embedded",
        f"model.device={DEVICE}",
        "task.limit=200",
        "tracking=none",
    ]
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
    globals()[STEP]()
