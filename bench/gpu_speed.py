"""The steps of gpu_all.py that measure time or memory."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engines import greedy, random_prompts
from gpu_engines import (
    DEVICE,
    NEW,
    ON_GPU,
    OUTPUT_FILE,
    PROMPT,
    ROWS,
    VLLM_PYTHON,
    NotRunError,
    count_equal,
    flash_attention_lacks,
    generate,
    load_engine,
    make_requests,
    model_config,
    note,
    note_figure,
    read_tokens,
    require,
    steps_on_device,
)
from gpu_results import RESULTS_NAME, read_results

from runner.config.resolved import resolve_job
from runner_base import machine
from runner_base.child_process import request_kill_when_parent_dies
from runner_engine.attention.device_attention import attend
from runner_engine.attention.page_trial import PAGE, find_kv_page_size
from runner_engine.attention.partial_attention import Scaling
from runner_engine.decode.passes.device_step import MOST_PREFIXES, StepAttention
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.shared_kv import SharedKv, create_kv_store
from runner_engine.kv_cache.sliding_windows import Window
from runner_engine.kv_cache.slots import SlotStore
from runner_engine.local.engine import LocalEngine, LocalSession
from runner_engine.plan.footprint import predict_footprint
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests

PREFILL = 512 if ON_GPU else 48  # tokens of the prompts whose prefill is measured
MEMORY_TOLERANCE = 0.05  # of a prediction


def _measure_seconds(work: Callable[[], Any]) -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _measure_rates(
    complete: Callable[[list[Request]], Any], engine: LocalEngine, rows: int, new: int, seed: int
) -> tuple[float, float]:
    """Return tokens a second of prefill and decode. Prompts are new, so no cache has them.

    Decode is the time of all new tokens less that of the first, which contains the prefill.
    """
    prefill_s = _measure_seconds(partial(complete, make_requests(engine, rows, 1, PREFILL, seed)))
    first_s = _measure_seconds(partial(complete, make_requests(engine, rows, 1, seed=seed + 1)))
    all_s = _measure_seconds(partial(complete, make_requests(engine, rows, new + 1, seed=seed + 2)))
    return rows * PREFILL / prefill_s, rows * new / max(all_s - first_s, 1e-9)


def speed() -> None:
    """Prefill and decode, with recorded steps, without steps ahead, without recorded steps, and by generate."""
    engine = load_engine(model_config())

    def ours(requests: list[Request]) -> None:
        read_tokens(complete_requests(engine, requests, len(requests)))

    for rows in ROWS:
        sides: dict[str, list[tuple[float, float]]] = {}
        for name, records, is_ahead, tries in (
            ("runner", True, True, 3), ("not ahead", True, False, 2), ("not recorded", False, True, 1)
        ):  # fmt: skip
            with steps_on_device(records, is_ahead):
                rates = [_measure_rates(ours, engine, rows, NEW, 10 * at) for at in range(tries)]
            sides[name] = rates[1:] or rates  # the first one records the steps
        generate(engine, make_requests(engine, rows, 2))
        sides["generate"] = [_measure_rates(lambda some: generate(engine, some), engine, rows, NEW // 4, 90)]
        for at, what in enumerate(("prefill", "decode")):
            for name, rates in sides.items():
                note_figure(f"{what}, {rows} sequences", "tokens/s", [rate[at] for rate in rates], name)
        ratio = max(rate for _, rate in sides["runner"]) / sides["generate"][0][1]
        is_fast = ratio > 2 if ON_GPU else None
        note(f"{rows} sequences: at least twice generate", f"decode is {ratio:.1f} times as fast", is_fast)


def vllm() -> None:
    """The same measurement in vLLM, on the same card and the same weights."""
    if not VLLM_PYTHON and importlib.util.find_spec("vllm") is None:
        raise NotRunError(
            "vLLM is not installed here. --vllm names the Python of an environment that has it."
        )
    with tempfile.TemporaryDirectory() as folder:
        job, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        sizes = {"rows": ROWS, "prefill": PREFILL, "prompt": PROMPT, "new": NEW}
        job.write_text(json.dumps({"folder": model_config().name, "dtype": "bfloat16"} | sizes))
        command = [VLLM_PYTHON or sys.executable, str(Path(__file__).with_name("gpu_vllm_side.py"))]
        # another environment must not find this one's packages
        environment = {
            name: value for name, value in os.environ.items() if name != "PYTHONPATH" or not VLLM_PYTHON
        }
        subprocess.run(
            [*command, str(job), str(answer)],
            check=True,
            env=environment,
            preexec_fn=request_kill_when_parent_dies,
        )
        measured = json.loads(answer.read_text())
    ours = {
        figure.what: figure.median
        for result in read_results(Path(OUTPUT_FILE).with_name(RESULTS_NAME))
        for figure in result.output.figures
        if figure.side == "runner"
    }
    for line in measured["rates"]:
        for what in ("prefill", "decode"):
            name, rate = f"{what}, {line['rows']} sequences", line[what]
            note_figure(name, "tokens/s", rate, "vLLM")
            if name in ours:
                note_figure(name, "times vLLM", [ours[name] / statistics.median(rate)], "runner", 2)
    note("vLLM", f"{measured['version']}, loaded in {measured['load_s']:.0f} s")


def memory() -> None:
    """Predicted memory beside the largest that torch's allocator has used."""
    rows, prompt, new = (128, 512, 64) if ON_GPU else (4, 32, 8)
    model = model_config()
    predicted = predict_footprint(resolve_job(greedy(model, None, new)).model, (rows, prompt, new))
    engine = load_engine(model)
    parts = {}
    if ON_GPU:
        parts["weights"] = torch.cuda.memory_allocated() / machine.MIB
        torch.cuda.reset_peak_memory_stats()
    read_tokens(complete_requests(engine, make_requests(engine, rows, new, prompt), rows))
    parts["keys and values"] = engine.stats.peak_kv_bytes / machine.MIB
    if ON_GPU:
        parts["peak"] = torch.cuda.max_memory_allocated() / machine.MIB
    if predicted is None:
        note("memory is predicted", "there is no prediction", False)
        return
    predicted_mib = {
        "weights": predicted.resident_weight_mib,
        "keys and values": predicted.kv_cache_mib,
        "peak": predicted.total_mib,
    }
    for name, measured_mib in parts.items():
        off = predicted_mib[name] / measured_mib - 1
        note(f"{name}: at most {MEMORY_TOLERANCE:.0%} off", f"{off:+.1%}", abs(off) <= MEMORY_TOLERANCE)
        what = f"{name} of {rows} sequences of {prompt + new} tokens"
        note_figure(what, "MiB", [predicted_mib[name]], "predicted", 2)
        note_figure(what, "MiB", [measured_mib], "measured", 2)


def quantized() -> None:
    """Quantized layers decode in recorded steps, or are refused with a reason."""
    require("bitsandbytes")
    for name in ("nf4", "int8") if ON_GPU else ("nf4",):
        engine = load_engine(model_config(), name)
        requests = make_requests(engine, ROWS[1], 48 if ON_GPU else 8)
        answers, rates, summary = [], [], ""
        for records in (True, False):
            with steps_on_device(records):
                answers.append(read_tokens(complete_requests(engine, requests)))
                rates.append(decode_rate(engine, requests))
            summary = summary or engine.stats.decoding_graphs
        equals = count_equal(answers[0], answers[1])
        said = f"{equals} of {len(requests)} answers; {summary or 'no recorded steps'}"
        note(f"{name}: recorded steps give the same tokens", said, equals == len(requests))
        for side, rate in zip(("recorded", "not recorded"), rates, strict=True):
            note_figure(f"decode of {name}, {ROWS[1]} sequences", "tokens/s", [rate], side)
        engine.close()


def decode_rate(engine: LocalEngine, requests: list[Request]) -> float:
    """Return the decoded tokens a second."""
    before = replace(engine.stats)
    read_tokens(complete_requests(engine, requests, len(requests)))
    return (engine.stats - before).decode_tok_per_s


def profile() -> None:
    """Twenty steps: kernels, gaps between them, and what the host waits for."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    engine = load_engine(model_config())
    for rows in ROWS[:3]:
        for records in (True, False) if ON_GPU else (True,):
            with steps_on_device(records), engine.open(rows) as session:
                assert isinstance(session, LocalSession)
                for request in make_requests(engine, rows, NEW if ON_GPU else 60):
                    session.submit(request)
                for _ in range(30):
                    session.step()
                kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]
                with profiled(activities=kinds) as seen:
                    started = time.perf_counter()
                    for _ in range(20):
                        session.step()
                    host_ms = (time.perf_counter() - started) * 50
                note_profile(f"{rows} sequences, {'' if records else 'not '}recorded", seen, host_ms)
                if ON_GPU and rows == ROWS[1] and not records:
                    print(
                        seen.key_averages().table(
                            sort_by="cuda_time_total", row_limit=40, max_name_column_width=70
                        )
                    )


def note_profile(what: str, seen: Any, host_ms: float) -> None:
    """Note how many kernels a step has, how long the device is busy, and how often the host
    waits."""
    events = seen.events()
    on_device = [one for one in events if one.device_type.name == "CUDA"]
    busy_ms = sum(one.time_range.elapsed_us() for one in on_device) / 20_000
    waits = Counter(one.name for one in events if re.search("Synchronize|cudaMemcpy$", one.name))
    launches = sum(one.name.startswith(("cudaLaunch", "cudaGraphLaunch", "cuLaunch")) for one in events) / 20
    note(
        f"{what}: at most five waits a step",
        f"{len(on_device) / 20:,.0f} kernels, {launches:,.0f} launches, {busy_ms:.2f} of {host_ms:.2f} ms busy, "
        f"waits a step: { {name: round(count / 20, 1) for name, count in waits.items()} }",
        sum(waits.values()) <= 5 * 20 if ON_GPU else None,
    )
    for name, count in Counter(one.name[:90] for one in on_device).most_common(25):
        took = sum(one.time_range.elapsed_us() for one in on_device if one.name[:90] == name)
        print(f"  {count / 20:7.1f} a step {took / 20:9.1f} µs  {name}")


def prefixes() -> None:
    """Many prefixes, each shared by some rows, beside one prefix that all share."""
    engine = load_engine(model_config())
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
    note(
        f"{rows} rows: many prefixes cost less than half",
        f"{words} tokens/s",
        slowest > fastest / 2 if ON_GPU else None,
    )


def _measure_us(work: Callable[[], Any], tries: int = 30) -> float:
    """Return the median microseconds of something on the device, after five warm-up calls."""
    return 1e6 * statistics.median([_measure_seconds(work) for _ in range(tries + 5)][5:])


def own_attention(rows: int, places: int, has_splits: bool) -> tuple[str, bool]:
    """Time attention to the rows' own keys as it is, and by flash attention; return words, and
    whether it is right."""
    kv_heads, group, dim = 2, 7, 64
    dtype = torch.bfloat16 if ON_GPU else torch.float32
    keys, values = (torch.randn(rows, places, kv_heads, dim, device=DEVICE, dtype=dtype) for _ in range(2))
    query = torch.randn(rows, kv_heads * group, dim, device=DEVICE, dtype=dtype)
    used = torch.randint(1, places, (rows,), device=DEVICE, dtype=torch.int32)
    hidden = (torch.arange(places, device=DEVICE)[None] >= used[:, None])[:, None, None]
    ends = torch.arange(rows + 1, device=DEVICE, dtype=torch.int32)

    def present() -> torch.Tensor:
        grouped = query.view(rows, kv_heads, group, dim)
        out = attend(Scaling(dim**-0.5, 0.0), grouped, keys.transpose(1, 2), values.transpose(1, 2), hidden)[
            0
        ]
        return out.reshape(rows, -1, dim)

    def by_flash(**splits: Any) -> torch.Tensor:
        flat = keys.flatten(0, 1), values.flatten(0, 1)
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            query, *flat, ends, ends * places, 1, places, 0.0, False, False, seqused_k=used, **splits
        )[0]
        return out

    ways: dict[str, Callable[[], torch.Tensor]] = {"present": present}
    if ON_GPU:
        ways["flash"] = by_flash
    if ON_GPU and has_splits:
        ways["flash, no splits"] = lambda: by_flash(num_splits=1)
    return compared(ways)


def paged_attention(rows: int, trunk: int, window: int | None) -> tuple[str, bool]:
    """Compare a step's attention to a prefix of all rows and to own keys: apart and joined, and as
    pages at once."""
    dtype = torch.bfloat16 if ON_GPU else torch.float32
    numbers = torch.Generator(DEVICE).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=numbers, device=DEVICE).to(dtype)

    windows = () if window is None else (Window(window),)
    apart = KvCacheSpec(1, 2, 7, 64, dtype, torch.device(DEVICE), windows, by_sdpa=True)
    if not find_kv_page_size(apart):
        return "pages are not used here: the log says why", not ON_GPU
    stored, own, new, query = (
        random(2, 2, trunk, 64),
        random(2, 2, 200, 64),
        random(2, 2, rows, 64),
        random(14, rows, 64),
    )

    def attended(step: StepAttention) -> torch.Tensor:
        return replace(step).attend(0, query, new[0], new[1], 0.125)

    ways: dict[str, Callable[[], torch.Tensor]] = {}
    for name, heads in {"apart": apart, "pages": replace(apart, page=PAGE)}.items():
        prefix = Prefix([0] * trunk, kv=SharedKv.allocate(apart, trunk, None))
        prefix.kv.store.write_stored(0, *stored)
        slots = create_kv_store(heads, None, [200 + trunk % PAGE] * rows, [prefix] * rows)
        assert isinstance(slots, SlotStore)
        for slot in range(rows):
            at = torch.arange(200, device=DEVICE, dtype=torch.int32)
            slots.write(0, own[0].transpose(0, 1), own[1].transpose(0, 1), torch.full_like(at, slot), at)
        places = torch.arange(rows, device=DEVICE) % 190
        table = torch.stack([places * 0, places + trunk, places, *[places * 0 + 1] * MOST_PREFIXES], dim=1)
        blocks = slots.page_table[:rows] if isinstance(slots, PagedSlots) else None
        step = StepAttention(heads, slots, [] if heads.page else [prefix], table, 0, blocks)
        ways[name] = partial(attended, step)
    return compared(ways)


def compared(ways: dict[str, Callable[[], torch.Tensor]]) -> tuple[str, bool]:
    """Time each of these and what it records; say by how much it differs from the first, which ends
    in a failure."""
    usual, words, passed = next(iter(ways.values()))().float(), [], True
    for name, way in ways.items():
        if not ON_GPU:
            off = float((way().float() - usual).abs().max())
            words.append(f"{name} {_measure_us(way):.0f} µs (off {off:.1g})")
            passed = passed and off < 1e-3
            continue
        try:
            off = float((way().float() - usual).abs().max())
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                held = way()
            held.fill_(torch.nan)
            graph.replay()
            again = float((held.float() - usual).abs().max())
            took_us, replayed_us = _measure_us(way), _measure_us(graph.replay)
            words.append(f"{name} {took_us:.0f} µs, replayed {replayed_us:.0f} (off {off:.1g}, {again:.1g})")
            passed = passed and off < 0.05 and again < 0.05
        except Exception as error:  # noqa: BLE001  # what it says is the measurement
            words.append(f"{name}: {str(error).splitlines()[0][:120]}")
            passed = False
    return "; ".join(words), passed


def attention() -> None:
    """Attention to own keys by flash attention with each sequence's length, beside the mask."""
    if ON_GPU and "seqused_k" not in str(torch.ops.aten._flash_attention_forward.default._schema):
        raise NotRunError("Flash attention of this torch takes no lengths.")
    has_splits = "num_splits" not in flash_attention_lacks()
    for rows in ROWS:
        for places in (256, 1024) if ON_GPU else (64,):
            said, passed = own_attention(rows, places, has_splits)
            note(f"{rows} sequences of up to {places} positions: right, recorded", said, passed)


def pages() -> None:
    """Attention to pages is right, can be recorded, and its time beside that of prefixes apart."""
    if ON_GPU and (lacks := flash_attention_lacks()):
        raise NotRunError(
            f"Pages need torch 2.13: this torch lacks {' and '.join(lacks)} of flash attention."
        )
    for rows in ROWS:
        for trunk, window in (
            ((1000, None), (4000, None), (1000, 600)) if ON_GPU else ((600, None), (600, 300))
        ):
            end = f", window {window}" if window else ""
            said, passed = paged_attention(rows, trunk, window)
            note(f"{rows} sequences on a prefix of {trunk} tokens{end}: pages are right", said, passed)
