"""The fresh process of the memory task: import, load, a first pass, then prefill and decode of each
point.

Runs as `python -m runner.tasks.memory.probe`. It reads the job's config and the points to measure,
pickled, from stdin, and writes events to stdout, one JSON object a line; everything else that is
printed goes to stderr. A point that runs out of memory is reported, and the next one follows.
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

from runner.render.notes import note_text
from runner.speed.synthetic import check_room, room_of, synthetic_requests
from runner.tasks import ResolvedJob, RunnerConfig, kind_of, open_engine, resolve
from runner.tasks.memory.keys import MemoryConfig
from runner_base import RunnerError, child, is_memory_error, machine, one_line
from runner_base.errors import NOT_GIVEN
from runner_base.notes import Note, note
from runner_engine import Capability, Completion, Engine, EngineReport, Session, Workload, complete, require
from runner_engine.devices.mapped_files import resident_mib
from runner_engine.render.notes import render


class OutOfMemory(Exception):
    """A point did not fit."""

    def __init__(self, reason: Note) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Probe:
    """Measures stages and reports them."""

    channel: TextIO
    engine: Engine
    files: list[Path]  # the checkpoint's, which are mapped
    mapped_weight_mib: float = 0.0  # of the weights as they were loaded
    weight_mib: float = 0.0

    def emit(self, **event: Any) -> None:
        """Send one event to the parent."""
        self.channel.write(json.dumps(event) + "\n")
        self.channel.flush()

    def stage(self, name: str, work: Callable[[], Any], point: int | None = None) -> Any:
        """Run one stage and report its peak, its time and its memory after garbage collection.

        The kernel and the allocator of a GPU keep high-water marks. There is none for anonymous
        memory alone. Only while a checkpoint is read is it sampled, since the pages of the
        checkpoint, which can be dropped, must not count.
        """
        self.emit(begin=name, point=point)
        machine.restart_peak()
        with AnonymousPeak() if name == "load" else nullcontext() as anonymous:
            started = time.perf_counter()
            result = work()
            seconds = time.perf_counter() - started
        figures = {"seconds": seconds, "peak_rss_mib": machine.peak_rss_mib(), **_cuda_mib()}
        # frees what can be freed; the next stage's peak starts here
        resettable = machine.reset_peak()
        figures |= {
            "steady_rss_mib": machine.rss_mib(),
            "steady_anon_mib": machine.anonymous_mib(),
            **pss_mib(),
        }
        figures["peak_rss_mib"] = max(figures["peak_rss_mib"], figures["steady_rss_mib"])
        if anonymous is not None:
            figures["peak_anon_mib"] = max(anonymous.peak_mib, figures["steady_anon_mib"])
        figures["kv_tokens"] = self.engine.stats.kv_tokens
        figures["own_weights_mib"] = self.weight_mib - self.mapped_weight_mib + self.engine.stats.packed_mib
        figures["weights_mib"] = figures["own_weights_mib"] + resident_mib(self.files)
        self.emit(stage=name, point=point, figures=figures, peak_since_start=not resettable)
        return result

    def held_mib(self) -> float:
        """Memory that the rows may take: the allocator's on a GPU, else anonymous memory."""
        machine.reset_peak()
        return _cuda_mib().get("cuda_steady_mib") or machine.anonymous_mib()


class AnonymousPeak:
    """Samples anonymous memory: the kernel keeps a high-water mark only of its sum with the pages
    of files."""

    EVERY_S = 0.005

    def __enter__(self) -> AnonymousPeak:
        self.peak_mib = machine.anonymous_mib()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_mib = max(self.peak_mib, machine.anonymous_mib())

    def _watch(self) -> None:
        while not self._stop.wait(self.EVERY_S):
            self.peak_mib = max(self.peak_mib, machine.anonymous_mib())


def measure(config: RunnerConfig, points: list[tuple[int, Workload]], channel: TextIO) -> None:
    """Take a job through the stages; the points come smallest first."""
    resolved = resolve(config)
    engine = open_engine(resolved)
    require(engine.capabilities, "task=memory", [Capability.token_ids])
    probe = Probe(channel, engine, _files(resolved))
    machine.reset_peak()
    probe.stage("import", lambda: kind_of(config.model).import_libraries(resolved))

    def load() -> EngineReport:
        report: EngineReport = engine.load()
        probe.weight_mib = report.metrics["weight_mib"]
        probe.mapped_weight_mib = report.metrics.get("mapped_weight_mib", 0.0)
        return report

    report: EngineReport = probe.stage("load", load)
    vocab_size = int(report.metrics["vocab_size"])
    for _, (_, prompt_tokens, new_tokens) in points:
        check_room(room_of(report), prompt_tokens, new_tokens)
    probe.emit(metrics=report.metrics, facts=report.facts, notes=[render(note) for note in report.notes])
    first = synthetic_requests(1, 8, 2, vocab_size, config.seed, draw=-1)
    # packs weights, builds kernels and reads pages of libraries
    probe.stage("first pass", lambda: complete(engine, first, batch_size=1))
    failed: list[Workload] = []
    for number, point in points:
        if smaller := next((workload for workload in failed if all(map(int.__le__, workload, point))), None):
            probe.emit(point=number, failed=f"not tried: {_words(smaller)} ran out of memory")
            continue
        try:
            _measure_point(probe, number, point, vocab_size, config.seed)
        except Exception as error:
            if isinstance(error, OutOfMemory):
                reason = one_line(note_text(error.reason), limit=200)
            elif is_memory_error(error):
                reason = one_line(error, limit=200)
            else:
                raise
            failed.append(point)
            probe.emit(point=number, failed=f"out of memory: {reason}" if reason else "out of memory")
            machine.reset_peak()
    probe.emit(done=True)


def _measure_point(probe: Probe, number: int, point: Workload, vocab_size: int, seed: int) -> None:
    """Prefill all rows, decode until each lacks one token, measure the KV cache, and end."""
    rows, _, new_tokens = point
    engine, shortages = probe.engine, len(probe.engine.stats.row_shortages)
    before = replace(engine.stats)
    with engine.open(rows) as session:
        steps = _Steps(session, engine, shortages)
        for request in synthetic_requests(*point, vocab_size, seed, draw=number):
            session.submit(request)
        probe.stage("prefill", steps.prefill, number)
        last = before.decode_tokens + rows * (new_tokens - 2)
        probe.stage("decode", lambda: steps.decode(last), number)
        kv_tokens, held_mib = engine.stats.kv_tokens, probe.held_mib()
        is_held = not session.idle
        steps.decode(sys.maxsize)
    kv_mib = held_mib - probe.held_mib() if is_held and kv_tokens else None
    spent = engine.stats - before
    speed = {"prefill_tok_per_s": spent.prefill_tok_per_s, "decode_tok_per_s": spent.decode_tok_per_s}
    probe.emit(point=number, kv_mib=kv_mib, kv_tokens=kv_tokens, speed=speed)


@dataclass
class _Steps:
    """Steps a session; OutOfMemory if its rows cannot all decode together.

    It does not use `gather`, which steps to the end: each stage here stops earlier.
    """

    session: Session
    engine: Engine
    shortages: int  # how many the engine had before

    def prefill(self) -> None:
        """Step until every row has its first token."""
        self._step()
        while not self.session.idle and self.engine.stats.rows_waiting:
            self._step()

    def decode(self, last: int) -> None:
        """Step until `last` tokens have been decoded, or all rows have ended."""
        while not self.session.idle and self.engine.stats.decode_tokens < last:
            self._step()

    def _step(self) -> None:
        for event in self.session.step():
            if isinstance(event, Completion) and event.error:
                raise OutOfMemory(note("error", reason=event.error))
        for shortage in self.engine.stats.row_shortages[self.shortages :]:
            raise OutOfMemory(note("fewer_rows", shortage=shortage))


def _words(point: Workload) -> str:
    return f"batch {point[0]}, context {point[1] + point[2]}"


def _files(resolved: ResolvedJob) -> list[Path]:
    """Return the files that the weights may be mapped from."""
    if not kind_of(resolved.config.model).HAS_WEIGHTS:
        return []
    return resolved.model.files.weights[1]


def pss_mib() -> dict[str, float]:
    """Proportional memory of this process (shared pages divided by their users), whole and from
    files."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return {"pss_mib": 0.0, "pss_file_mib": 0.0}  # macOS, or a kernel before 4.14
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return {"pss_mib": kib["Pss"] / 1024, "pss_file_mib": kib.get("Pss_File", 0) / 1024}


def _cuda_mib() -> dict[str, float]:
    """Peaks of the CUDA allocator over all devices since the last call; empty where no GPU is in
    use."""
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
    """Read the config, measure, report; exit code 0, or 1 after an error that was reported."""
    child.end_with_parent()  # nothing else reads its events
    config, points = pickle.load(sys.stdin.buffer)
    assert isinstance(config.task, MemoryConfig)
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print to stdout must not garble the events
    try:
        measure(config, points, channel)
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
