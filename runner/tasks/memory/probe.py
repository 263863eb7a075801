"""Measures the memory of import, load, prefill and decode in a child process of task=memory.

Runs as `python -m runner.tasks.memory.probe`. It reads the job's config and the points to
measure, pickled, from stdin, and writes events to stdout, one JSON object a line; everything
else that is printed goes to stderr. A point that runs out of memory is reported, and the next
one follows.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from runner.render.notes import format_note
from runner.speed.synthetic import check_context_length, context_length_of_report, create_random_requests
from runner.tasks import ResolvedJob, RunnerConfig, create_lazy_engine, get_model_kind, resolve_job
from runner.tasks.memory.keys import MemoryConfig
from runner_base import RunnerError, child_process, is_out_of_memory_error, machine, to_one_line
from runner_base.errors import NOT_GIVEN
from runner_base.notes import Note, note
from runner_engine import (
    Capability,
    Completion,
    Engine,
    EngineReport,
    Session,
    Workload,
    complete_requests,
    require_capabilities,
)
from runner_engine.devices import mapped_files
from runner_engine.render.notes import render_engine_note


class PointOutOfMemory(Exception):
    """Error for a combination of batch size and context length that does not fit into memory."""

    def __init__(self, reason: Note) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class MemoryProbe:
    """Measures the memory of each stage, and sends the measurements to the parent process."""

    channel: TextIO
    engine: Engine
    files: list[Path]  # the checkpoint's, which are mapped
    mapped_weight_mib: float = 0.0  # of the weights as they were loaded
    weight_mib: float = 0.0

    def send_event_to_parent(self, **event: Any) -> None:
        """Send one event to the parent process as a JSON line."""
        self.channel.write(json.dumps(event) + "\n")
        self.channel.flush()

    def measure_stage_memory(self, name: str, run_stage: Callable[[], Any], point: int | None = None) -> Any:
        """Run one stage and send its peak memory, its time, and the memory after garbage collection.

        The kernel and the allocator of a GPU keep high-water marks, but the kernel has none for
        anonymous memory alone. It is sampled only while a checkpoint is read, because the checkpoint's
        pages, which can be dropped, must not count.
        """
        self.send_event_to_parent(begin=name, point=point)
        machine.reset_peak_rss_counter()
        with AnonymousPeakSampler() if name == "load" else nullcontext() as anonymous:
            started = time.perf_counter()
            result = run_stage()
            seconds = time.perf_counter() - started
        figures = {"seconds": seconds, "peak_rss_mib": machine.peak_rss_mib(), **_read_cuda_peaks_mib()}
        # frees what can be freed; the next stage's peak starts here
        resettable = machine.reset_peak_rss()
        figures |= {
            "steady_rss_mib": machine.rss_mib(),
            "steady_anon_mib": machine.anonymous_rss_mib(),
            **read_proportional_memory_mib(),
        }
        figures["peak_rss_mib"] = max(figures["peak_rss_mib"], figures["steady_rss_mib"])
        if anonymous is not None:
            figures["peak_anon_mib"] = max(anonymous.peak_mib, figures["steady_anon_mib"])
        figures["kv_tokens"] = self.engine.stats.kv_tokens
        figures["own_weights_mib"] = self.weight_mib - self.mapped_weight_mib + self.engine.stats.packed_mib
        figures["weights_mib"] = figures["own_weights_mib"] + mapped_files.measure_resident_file_mib(
            self.files
        )
        self.send_event_to_parent(stage=name, point=point, figures=figures, peak_since_start=not resettable)
        return result

    def measure_allocated_memory_mib(self) -> float:
        """Return the allocated GPU memory in MiB. On a CPU, return the anonymous memory."""
        machine.reset_peak_rss()
        return _read_cuda_peaks_mib().get("cuda_steady_mib") or machine.anonymous_rss_mib()


class AnonymousPeakSampler:
    """Samples anonymous memory to find its peak, because the kernel's peak also includes file pages."""

    EVERY_S = 0.005

    def __enter__(self) -> AnonymousPeakSampler:
        self.peak_mib = machine.anonymous_rss_mib()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_loop, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_mib = max(self.peak_mib, machine.anonymous_rss_mib())

    def _sample_loop(self) -> None:
        while not self._stop.wait(self.EVERY_S):
            self.peak_mib = max(self.peak_mib, machine.anonymous_rss_mib())


def measure_workloads_memory(
    config: RunnerConfig, points: list[tuple[int, Workload]], output_stream: TextIO
) -> None:
    """Measure the memory of all stages, for each combination of batch size and context length in turn."""
    resolved = resolve_job(config)
    engine = create_lazy_engine(resolved)
    require_capabilities(engine.capabilities, "task=memory", [Capability.token_ids])
    probe = MemoryProbe(output_stream, engine, _list_weight_files(resolved))
    machine.reset_peak_rss()

    def import_libraries() -> None:
        """Import, and release the libraries' pages. What comes back counts as memory of later stages."""
        get_model_kind(config.model).import_libraries(resolved)
        mapped_files.release_library_pages()

    probe.measure_stage_memory("import", import_libraries)

    def load_and_record_weight_mib() -> EngineReport:
        report: EngineReport = engine.load()
        probe.weight_mib = report.metrics["weight_mib"]
        probe.mapped_weight_mib = report.metrics.get("mapped_weight_mib", 0.0)
        return report

    report: EngineReport = probe.measure_stage_memory("load", load_and_record_weight_mib)
    vocab_size = int(report.metrics["vocab_size"])
    for _, (_, prompt_tokens, new_tokens) in points:
        check_context_length(context_length_of_report(report), prompt_tokens, new_tokens)
    probe.send_event_to_parent(
        metrics=report.metrics, facts=report.facts, notes=[render_engine_note(note) for note in report.notes]
    )
    first = create_random_requests(1, 8, 2, vocab_size, config.seed, variant=-1)
    # packs weights, builds kernels and reads pages of libraries
    probe.measure_stage_memory("first pass", lambda: complete_requests(engine, first, batch_size=1))
    failed: list[Workload] = []
    for number, point in points:
        if smaller := next((workload for workload in failed if all(map(int.__le__, workload, point))), None):
            probe.send_event_to_parent(
                point=number, failed=f"skipped: {_format_point(smaller)} ran out of memory"
            )
            continue
        try:
            _measure_workload_memory(probe, number, point, vocab_size, config.seed)
        except Exception as error:
            if isinstance(error, PointOutOfMemory):
                reason = to_one_line(format_note(error.reason), limit=200)
            elif is_out_of_memory_error(error):
                reason = to_one_line(error, limit=200)
            else:
                raise
            failed.append(point)
            probe.send_event_to_parent(
                point=number, failed=f"out of memory: {reason}" if reason else "out of memory"
            )
            machine.reset_peak_rss()
    probe.send_event_to_parent(done=True)


def _measure_workload_memory(
    probe: MemoryProbe, number: int, point: Workload, vocab_size: int, seed: int
) -> None:
    """Measure prefill, decode and KV cache size for one batch size and context length."""
    rows, _, new_tokens = point
    engine, shortages = probe.engine, len(probe.engine.stats.row_shortages)
    before = replace(engine.stats)
    with engine.open(rows) as session:
        steps = _StageStepper(session, engine, shortages)
        for request in create_random_requests(*point, vocab_size, seed, variant=number):
            session.submit(request)
        probe.measure_stage_memory("prefill", steps.step_until_prefilled, number)
        last = before.decode_tokens + rows * (new_tokens - 2)
        probe.measure_stage_memory("decode", lambda: steps.step_until_decoded(last), number)
        kv_tokens, held_mib = engine.stats.kv_tokens, probe.measure_allocated_memory_mib()
        is_held = not session.is_idle
        steps.step_until_decoded(sys.maxsize)
    kv_mib = held_mib - probe.measure_allocated_memory_mib() if is_held and kv_tokens else None
    spent = engine.stats - before
    speed = {"prefill_tok_per_s": spent.prefill_tok_per_s, "decode_tok_per_s": spent.decode_tok_per_s}
    probe.send_event_to_parent(point=number, kv_mib=kv_mib, kv_tokens=kv_tokens, speed=speed)


@dataclass
class _StageStepper:
    """Runs a session step by step. Raises PointOutOfMemory if memory is too small to decode all
    sequences together.

    It does not use `gather`, which steps to the end: each stage here stops earlier.
    """

    session: Session
    engine: Engine
    shortages: int  # how many the engine had before

    def step_until_prefilled(self) -> None:
        self._step()
        while not self.session.is_idle and self.engine.stats.rows_waiting:
            self._step()

    def step_until_decoded(self, num_tokens: int) -> None:
        """Run steps until `num_tokens` tokens have been decoded, or all sequences have ended."""
        while not self.session.is_idle and self.engine.stats.decode_tokens < num_tokens:
            self._step()

    def _step(self) -> None:
        for event in self.session.step():
            if isinstance(event, Completion) and event.error:
                raise PointOutOfMemory(note("error", reason=event.error))
        for shortage in self.engine.stats.row_shortages[self.shortages :]:
            raise PointOutOfMemory(note("fewer_rows", shortage=shortage))


def _format_point(point: Workload) -> str:
    return f"batch {point[0]}, context {point[1] + point[2]}"


def _list_weight_files(resolved: ResolvedJob) -> list[Path]:
    if not get_model_kind(resolved.config.model).HAS_WEIGHTS:
        return []
    return resolved.model.files.weight_files[1]


def read_proportional_memory_mib() -> dict[str, float]:
    """Return the total and file-mapped proportional set size (PSS) of this process in MiB."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return {"pss_mib": 0.0, "pss_file_mib": 0.0}  # macOS, or a kernel before 4.14
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return {"pss_mib": kib["Pss"] / 1024, "pss_file_mib": kib.get("Pss_File", 0) / 1024}


def _read_cuda_peaks_mib() -> dict[str, float]:
    """Return the CUDA allocator's peaks in MiB since the last call, summed over all GPUs. Empty
    without a GPU.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    devices = range(torch.cuda.device_count())
    figures = {
        "cuda_peak_mib": sum(torch.cuda.max_memory_allocated(device) for device in devices) / machine.MIB,
        "cuda_reserved_mib": sum(torch.cuda.max_memory_reserved(device) for device in devices) / machine.MIB,
        "cuda_steady_mib": sum(torch.cuda.memory_allocated(device) for device in devices) / machine.MIB,
    }
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    return figures


def main() -> int:
    """Read the job's config from stdin, measure its memory and send the results. Returns the exit code."""
    child_process.request_kill_when_parent_dies()  # nothing else reads its events
    config, points = pickle.load(sys.stdin.buffer)
    assert isinstance(config.task, MemoryConfig)
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print to stdout must not garble the events
    try:
        measure_workloads_memory(config, points, channel)
    except RunnerError as error:
        details: dict[str, object] = {"reason": error.reason, "key": error.key, "code": error.code}
        if error.value is not NOT_GIVEN:
            details["value"] = str(error.value)
        channel.write(json.dumps({"error": type(error).__name__, "details": details}) + "\n")
        channel.flush()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
