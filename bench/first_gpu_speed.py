"""The steps of first_gpu.py that measure time."""

from __future__ import annotations

import os
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from engines import random_prompts
from first_gpu_engines import (
    ALWAYS,
    DEVICE,
    EXPECTED_KERNELS,
    EXPECTED_TOK_PER_S,
    NEVER,
    NEW,
    ON_GPU,
    ROWS,
    asked,
    decode_rate,
    engine_of,
    generated,
    note,
)

from runner_engine.attention.device_attention import attend
from runner_engine.attention.page_trial import PAGE, find_kv_page_size
from runner_engine.attention.partial_attention import Scaling
from runner_engine.decode.passes import step_graphs
from runner_engine.decode.passes.async_step import SWITCH
from runner_engine.decode.passes.device_step import MOST_PREFIXES, StepAttention
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.shared_kv import SharedKv, create_kv_store
from runner_engine.kv_cache.sliding_windows import Window
from runner_engine.kv_cache.slots import SlotStore
from runner_engine.local.engine import LocalSession
from runner_engine.sessions.base import Request


def speed() -> None:
    """Decoding, with recorded steps, with such that wait for the last one's tokens, without any,
    and by generate."""
    engine = engine_of()
    for rows in ROWS:
        requests = asked(engine, rows)
        rates = {}
        for name, at, ahead, tries in (
            ("with graphs", ALWAYS, "1", 2), ("not ahead", ALWAYS, "0", 2), ("without", NEVER, "1", 1)
        ):  # fmt: skip
            step_graphs.RECORD_AT, os.environ[SWITCH] = at, ahead
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
    note(
        f"{rows} rows: many prefixes cost less than half",
        f"{words} tokens/s",
        slowest > fastest / 2 or not ON_GPU,
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
    if ON_GPU and has["num_splits"]:
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
            words.append(f"{name} {best_us(way):.0f} µs (off {off:.1g})")
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
            words.append(
                f"{name} {best_us(way):.0f} µs, replayed {best_us(graph.replay):.0f} (off {off:.1g}, {again:.1g})"
            )
            passed = passed and off < 0.05 and again < 0.05
        except Exception as error:  # noqa: BLE001  # what it says is the measurement
            words.append(f"{name}: {str(error).splitlines()[0][:120]}")
            passed = False
    return "; ".join(words), passed


def attention() -> None:
    """`varlen_attn` is right, can be recorded, and how long it takes beside the present attention
    to own keys."""
    schema = str(torch.ops.aten._flash_attention_forward.default._schema)
    has = {name: name in schema for name in ("seqused_k", "block_table", "num_splits")}
    note("flash attention takes a block table", f"torch {torch.__version__}: {has}", True)
    for rows in ROWS:
        for places in (256, 1024) if ON_GPU else (64,):
            note(f"{rows} rows of up to {places} places: right, recorded", *own_attention(rows, places, has))
        for trunk, window in (
            ((1000, None), (4000, None), (1000, 600)) if ON_GPU else ((600, None), (600, 300))
        ):
            what = f"{rows} rows on a prefix of {trunk} tokens" + (
                f", a window of {window}" if window else ""
            )
            note(f"{what}: pages are right, recorded, timed", *paged_attention(rows, trunk, window))
