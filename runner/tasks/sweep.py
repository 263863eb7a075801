"""Speed over batch sizes × prompt lengths: time to first token, prefill and decode tokens per second.

Repeats are interleaved – every cell once, then every cell again – so that a drift of a shared machine hits
all cells alike. A cell that does not fit in memory becomes a row with a note; the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import median
from typing import Any

from runner.config.measures import SweepConfig
from runner.config.root import RunnerConfig
from runner.core import machine
from runner.core.errors import JobFailed
from runner.core.result import RepeatLog, Result
from runner.engines.base import FEWER_ROWS, Capability, Engine, EngineReport, complete, require
from runner.engines.synthetic import VOCABULARY, check_room, synthetic_requests
from runner.tasks.base import Context, Inputs, Uses

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine, Uses.machine})
FROM_LEDGER = True

OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")  # by name: the stub's machine may have no torch


@dataclass
class Cell:
    """One batch size and prompt length, and what was measured there."""

    batch_size: int
    prompt_tokens: int
    repeats: list[dict[str, float]] = field(default_factory=list)  # figures of each run after the warm-up
    peak_rss_mib: float = 0.0
    note: str = ""  # why there are no numbers

    @property
    def key(self) -> str:
        """The cell's name in metrics."""
        return f"batch_{self.batch_size}_prompt_{self.prompt_tokens}"

    def values(self, name: str) -> list[float]:
        """Return one figure of every run after the warm-up."""
        return [repeat[name] for repeat in self.repeats]


FIGURES = ("ttft_s", "prefill_tok_per_s", "decode_tok_per_s", "output_tok_per_s", "seconds")  # as far as they are seen
NOT_SEEN = "prefill and decode cannot be told apart from here: output tok/s counts whole answers, network and all"


def prepare(config: RunnerConfig) -> Inputs:  # noqa: ARG001
    """Read nothing: the prompts are made up."""
    return Inputs({})


def run(inputs: Inputs, context: Context) -> Result:  # noqa: ARG001
    """Measure every cell `repeats` times."""
    config, engine, recorder = context.config, context.engine(), context.recorder
    task = config.task
    assert isinstance(task, SweepConfig)
    require(engine, "task=sweep", [Capability.token_ids, Capability.fixed_length])
    free_mib = machine.available_mib()
    with recorder.progress(None, "sweep: loading") as bar:
        report = engine.load()
    check_room(report, max(task.prompt_tokens), task.new_tokens)
    cells = [Cell(batch, prompt) for batch, prompt in product(task.batch_sizes, task.prompt_tokens)]
    log = RepeatLog(recorder.folder)
    rounds = task.warmup + task.repeats
    with recorder.progress(rounds * len(cells), "sweep") as bar:
        for number in range(rounds):
            for cell in cells:
                bar.describe(f"sweep: batch {cell.batch_size}, prompt {cell.prompt_tokens}")
                figures = None if cell.note else run_cell(task, config.seed, engine, report, cell, number)
                if figures is not None and number >= task.warmup:
                    cell.repeats.append(figures)
                    log.add(len(cell.repeats), {f"{name}/{cell.key}": value for name, value in figures.items()})
                bar.advance(1)
    if all(cell.note for cell in cells):
        raise JobFailed(f"no cell of the sweep could be measured. The first one: {cells[0].note}")
    result = summarize(cells, report, engine.stats.load_s)
    if any(cell.note for cell in cells) and report.facts.get("device") == "cpu":
        result.ran_short_mib = free_mib
    result.notes += [note for note in engine.stats.notes if not note.startswith(FEWER_ROWS)]  # cells say those
    return result


def run_cell(
    task: SweepConfig, seed: int, engine: Engine, report: EngineReport, cell: Cell, number: int
) -> dict[str, float] | None:
    """Run a cell once and return its figures; None when it does not fit, which the cell's note then says."""
    shape = cell.batch_size, cell.prompt_tokens, task.new_tokens
    requests = synthetic_requests(*shape, int(report.metrics.get("vocab_size", VOCABULARY)), seed, draw=number)
    if number == 0:
        machine.reset_peak()  # once only: it gives memory back, and to fetch it again costs time
    before, said = replace(engine.stats), len(engine.stats.notes)
    started = time.perf_counter()
    try:
        completions = list(complete(engine, requests, batch_size=cell.batch_size))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        cell.note = f"out of memory: {' '.join(str(error).split())[:200]}"
        return None
    seconds = time.perf_counter() - started
    failed = [completion.error for completion in completions if completion.error]
    failed += [note for note in engine.stats.notes[said:] if note.startswith(FEWER_ROWS)]  # a smaller batch, then
    tokens = [it.tokens for it in completions]
    if set(tokens) != {task.new_tokens} and not failed:
        failed = [f"an answer had {min(tokens)} tokens, where {task.new_tokens} were asked for"]
    if failed:
        cell.note = failed[0]
        return None
    if number == 0:
        cell.peak_rss_mib = machine.peak_rss_mib()
    spent = engine.stats - before
    speed = {key: value for key, value in spent.speed.items() if key in FIGURES}
    return {
        "ttft_s": median(completion.first_token_s for completion in completions),
        **(speed or {"output_tok_per_s": sum(tokens) / seconds}),
        "seconds": seconds,
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the GPU or on the CPU."""
    named = any(kind.__name__ in OUT_OF_MEMORY for kind in type(error).__mro__)
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))  # torch on a CPU


def summarize(cells: list[Cell], report: EngineReport, load_s: float) -> Result:
    """Put the cells together: medians and spreads, one row per cell, and the best cell."""
    measured = [cell for cell in cells if not cell.note]
    figures = [name for name in FIGURES if name in measured[0].repeats[0]]
    speed = "decode_tok_per_s" if "decode_tok_per_s" in figures else "output_tok_per_s"
    best = max(measured, key=lambda cell: median(cell.values(speed)))
    metrics: dict[str, float] = dict(report.metrics)
    metrics |= {
        "load_s": load_s,
        f"best_{speed}": median(best.values(speed)),
        "best_batch_size": best.batch_size,
        "best_prompt_tokens": best.prompt_tokens,
        "peak_rss_mib": max(cell.peak_rss_mib for cell in measured),
    }
    aggregates: dict[str, Callable[[list[float]], float]] = {"": median, "_min": min, "_max": max}
    for cell in measured:
        for name, (suffix, aggregate) in product(figures, aggregates.items()):
            metrics[f"{name}{suffix}/{cell.key}"] = aggregate(cell.values(name))
        metrics[f"peak_rss_mib/{cell.key}"] = cell.peak_rss_mib
    notes, rows = list(report.notes), [_row(cell, figures, speed) for cell in cells]
    notes += [NOT_SEEN] if speed == "output_tok_per_s" else []
    if len(measured) < len(cells):
        rows = [row | {"note": cell.note} for cell, row in zip(cells, rows, strict=True)]
        notes.append(f"{len(cells) - len(measured)} of {len(cells)} cells could not be measured, see their notes")
    return Result(metrics, rows, dict(report.facts), notes)


def _row(cell: Cell, figures: list[str], speed: str) -> dict[str, Any]:
    """One line of the table; a cell that does not fit has no numbers."""
    row: dict[str, Any] = {"batch_size": cell.batch_size, "prompt_tokens": cell.prompt_tokens}
    for name in figures:
        digits = 1 if name.endswith("_tok_per_s") else 4 if name == "ttft_s" else 3
        row[name] = None if cell.note else round(median(cell.values(name)), digits)
        if name == speed:
            spread = None if cell.note else f"{min(cell.values(name)):.1f}–{max(cell.values(name)):.1f}"
            row[f"{name.partition('_')[0]}_spread"] = spread
    return row | {"peak_rss_mib": None if cell.note else round(cell.peak_rss_mib, 1)}
