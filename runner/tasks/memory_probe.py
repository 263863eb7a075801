"""The fresh process of the memory task: import, load, prefill, decode, each with its peak and what stays.

Runs as `python -m runner.tasks.memory_probe`. The job's config comes pickled on stdin; events go out on
stdout, one JSON object a line; whatever else is printed goes to stderr.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from runner.checkpoints.resolve import resolve
from runner.config.measures import MemoryConfig
from runner.config.root import RunnerConfig
from runner.core import child, machine
from runner.core.errors import JobFailed, RunnerError
from runner.engines import open_engine
from runner.engines.base import Capability, EngineReport, complete, require
from runner.engines.kinds import kind_of
from runner.engines.synthetic import check_room, synthetic_requests


@dataclass
class Probe:
    """Measures stages and reports them."""

    channel: TextIO

    def emit(self, **event: Any) -> None:
        """Send one event to the parent."""
        self.channel.write(json.dumps(event) + "\n")
        self.channel.flush()

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one stage and report its peak, its time and what stays when the garbage is gone."""
        self.emit(begin=name)
        with AnonymousPeak() as anonymous:
            started = time.perf_counter()
            done = work()
            seconds = time.perf_counter() - started
        figures = {"seconds": seconds, "peak_rss_mib": machine.peak_rss_mib(), "peak_anon_mib": anonymous.peak_mib}
        figures |= _cuda_mib()
        resettable = machine.reset_peak()  # frees what can be freed; the next stage's peak starts here
        figures |= {"steady_rss_mib": machine.rss_mib(), "steady_anon_mib": machine.anonymous_mib(), **pss_mib()}
        for kind in ("rss", "anon"):  # what was read a moment earlier may be some pages less
            figures[f"peak_{kind}_mib"] = max(figures[f"peak_{kind}_mib"], figures[f"steady_{kind}_mib"])
        self.emit(stage=name, figures=figures, peak_since_start=not resettable)
        return done


class AnonymousPeak:
    """Watches how much memory is no page of a file: the kernel keeps a high-water mark of the sum only.

    The pages of a mapped checkpoint can be dropped at any time, so they say nothing of what loading needs.
    """

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


def measure(config: RunnerConfig, probe: Probe) -> None:
    """Take a job through the four stages."""
    task = config.task
    assert isinstance(task, MemoryConfig)
    resolved = resolve(config)
    engine = open_engine(config, resolved=resolved)
    require(engine, "task=memory", [Capability.token_ids])
    machine.reset_peak()
    probe.stage("import", lambda: kind_of(config.model).import_libraries(config, resolved))
    report: EngineReport = probe.stage("load", engine.load)
    check_room(report, task.prompt_tokens, task.new_tokens)
    vocab_size = int(report.metrics["vocab_size"])

    def complete_all(new_tokens: int) -> None:
        shape = task.batch_size, task.prompt_tokens, new_tokens
        requests = synthetic_requests(*shape, vocab_size, config.seed, draw=new_tokens)
        for completion in complete(engine, requests, batch_size=task.batch_size):
            if completion.error:
                raise JobFailed(f"the engine could not complete row {completion.id}: {completion.error}")

    probe.stage("prefill", lambda: complete_all(new_tokens=1))
    before = replace(engine.stats)
    probe.stage("decode", lambda: complete_all(task.new_tokens))
    spent = engine.stats - before
    speed = {"prefill_tok_per_s": spent.prefill_tok_per_s, "decode_tok_per_s": spent.decode_tok_per_s}
    probe.emit(metrics=report.metrics | speed, facts=report.facts, notes=report.notes)


def pss_mib() -> dict[str, float]:
    """Proportional memory of this process (shared pages divided by their users), whole and from files."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return {"pss_mib": 0.0, "pss_file_mib": 0.0}  # macOS, or a kernel before 4.14
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return {"pss_mib": kib["Pss"] / 1024, "pss_file_mib": kib.get("Pss_File", 0) / 1024}


def _cuda_mib() -> dict[str, float]:
    """Peaks of the CUDA allocator over all devices since the last call; empty where no GPU is in use."""
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
    child.end_with_parent()  # nobody else would read its answer
    config = pickle.load(sys.stdin.buffer)
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print to stdout must not garble the events
    probe = Probe(channel)
    try:
        measure(config, probe)
    except RunnerError as error:
        probe.emit(error=type(error).__name__, message=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
