"""Speed over batch sizes × prompt lengths × new tokens × shared prompts, compared with this
machine's limits.

Repeats are interleaved – every cell once, then every cell again – so that a drift of a shared
machine affects all cells equally; the machine's own limits are measured after each round. A cell
that does not fit in memory becomes a row with a note; the others continue. After the cells,
requests may arrive by a clock (`task.arrival_rates`).
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from runner.config.measures import SweepConfig
from runner.config.prompts import Framing
from runner.core.energy import Energy
from runner.records.measurements import notes_on
from runner.render.notes import note_text, render_cells, render_notes
from runner.render.titles import BESIDE_LIMITS, BY_CLOCK, WITHOUT_GUESSES, highest_rate
from runner.speed import arrivals, gains, real_prompts, tables
from runner.speed.arrivals import Load
from runner.speed.cells import ENOUGH_TO_TELL, NOISY, WORK, Cell, Stopwatch, cells_of
from runner.speed.limits import MachineRates
from runner.speed.pictures import MODULE, POINTS
from runner.speed.real_prompts import RealPrompts
from runner.speed.synthetic import check_room, room_of
from runner.tasks import (
    Context,
    Inputs,
    Job,
    Recorder,
    ResolvedJob,
    RunnerConfig,
    Uses,
    beyond_words,
    kept_words,
    kind_of,
    own_config,
)
from runner.tasks.sweep.kept_cells import KeptCells
from runner_base import JobFailed, Result, machine, short_name, write_atomically
from runner_base.drawing import draw_in_process, draw_missing
from runner_base.notes import Note, note
from runner_base.repeats import RepeatLog
from runner_engine import Capability, require
from runner_engine.render.notes import render

VERSION = 3
USES = frozenset({Uses.weights, Uses.engine, Uses.machine})
FROM_LEDGER = True


MAX_NOISY_SHARE = 0.25  # of the cells: if more are too noisy, so is the job


@dataclass
class Prompted(Inputs):
    """The prompts that the task names; None for random tokens."""

    real: RealPrompts | None


def prepare(config: RunnerConfig) -> Prompted:
    """Read and hash the prompts; random tokens are made up later."""
    real = real_prompts.read(own_config(config, SweepConfig))
    return Prompted({}, real) if real is None else Prompted({"prompts": real.sha256}, real, data=real.data)


def check_lengths(inputs: Prompted, resolved: ResolvedJob) -> list[str]:
    """Reject cells that the model has no room for; real prompts are counted when it is loaded."""
    task = own_config(resolved.config, SweepConfig)
    if inputs.real is None:
        room = kind_of(resolved.config.model).positions(resolved).room
        check_room(room, max(task.prompt_tokens), max(task.new_tokens), beyond_words(resolved))
    return []


def run(inputs: Prompted, context: Context) -> Result:
    """Measure every cell `repeats` times, and then each rate of requests."""
    config, engine, recorder = context.config, context.engine, context.recorder
    task = own_config(config, SweepConfig)
    # without lengths: they are counted as prompts are sent
    real = None if inputs.real is None else replace(inputs.real, lengths=[])
    is_chat = real is not None and task.format is Framing.chat
    prompts = Capability.chat if is_chat else Capability.token_ids
    require(engine.capabilities, "task=sweep", [prompts, Capability.fixed_length])
    free_mib, contention = machine.available_mib(), machine.Contention()
    with recorder.progress(None, "sweep: loading"):
        report = engine.load()
    if real is None:
        check_room(room_of(report), max(task.prompt_tokens), max(task.new_tokens))
    else:
        real.fit(engine, report.metrics.get("max_positions", inf), max(task.new_tokens))
    limits = MachineRates(engine.arithmetic())
    on_gpus, is_here = (
        "cuda" in report.facts.get("device", ""),
        Capability.own_memory in engine.capabilities,
    )
    energy = Energy(with_gpus=on_gpus, is_elsewhere=not is_here)
    stopwatch = Stopwatch(engine, report, config.seed, limits.arithmetic, energy, real)
    stopwatch.guesses = config.generation.speculation.is_steady
    kept = KeptCells(recorder.folder, contention)
    total = (task.warmup + task.repeats) * len(cells_of(task)) + len(task.arrival_rates)
    with closing(kept), kept_words(kept.done, f" of {total} measurements"):
        cells = measure_cells(task, stopwatch, limits, recorder, kept)
        loads = measure_loads(task, stopwatch, recorder, kept) if any(not cell.note for cell in cells) else []
    measured = [cell for cell in cells if not cell.note]
    if not measured:
        reason = note_text(cells[0].note or "")
        raise JobFailed(f"no cell of the sweep could be measured. The first: {reason}", code="failed")
    if real is not None:
        for cell in cells:
            cell.prompt_tokens = real.typical
    knee = arrivals.knee_of(loads)
    found_knee = None if knee is None or knee.is_highest else knee.rate

    notes: list[Note | str] = []
    rows = render_cells(tables.rows_of_cells(cells, task))
    result = Result(dict(report.metrics), rows, dict(report.facts), [render(each) for each in report.notes])
    result.metrics |= _best(measured) | {
        "load_s": engine.stats.load_s,
        "peak_rss_mib": max(cell.peak_rss_mib for cell in measured),
        "cells": len(cells),
        "cells_not_measured": len(cells) - len(measured),
        "noisy_cells": sum(cell.is_noisy for cell in cells),
        **tables.metrics_of_cells(measured, limits),
        **tables.metrics_of_loads(loads),
        **gains.metrics(measured),
    }
    result.metrics |= engine.stats.own_memory(report.metrics.get("weight_mib")) | engine.stats.process_metrics
    if limits.best is not None:
        result.metrics["matrix_gflop_per_s"] = limits.best.matrix_gflop_per_s
        result.metrics["read_gb_per_s"] = limits.best.read_gb_per_s
    if knee is not None:
        result.metrics["knee_requests_per_s"] = knee.rate or 0.0  # 0: it is below the lowest rate
        result.facts["keeps_up_to"] = highest_rate(knee.rate, knee.is_highest)
    result.tables = (
        {BESIDE_LIMITS: tables.rows_of_limits(measured, task, limits)} if measured[0].figures else {}
    )
    if against_none := gains.rows(measured):
        result.tables[WITHOUT_GUESSES] = against_none
    result.tables |= engine.stats.tables(report.parts)
    if loads:
        result.tables[BY_CLOCK] = render_cells(tables.rows_of_loads(loads, found_knee))
    result.series = tables.series_of(measured, loads, task)
    result.facts |= {"measured": kept.describe_contention(), "machine": machine.name()}
    result.facts["noise"] = note_text(noise_of(cells, limits, kept.beside()))
    notes += [*notes_on(kept.count, total, kept.outdated), *_notes(cells, stopwatch, limits)]
    notes += gains.notes(measured, report.facts.get("dtype", ""), real is not None)
    if real is not None:
        result.facts["prompts"] = real.described
        notes += [*real.notes, *[note("mean_length")] * (limits.arithmetic is not None)]
    notes += [knee.note] if knee is not None else []
    result.notes += render_notes(notes)
    result.notes += map(render, engine.stats.notes)  # the notes of cells name shortages of rows
    if len(measured) < len(cells) and report.facts.get("device") == "cpu":
        result.ran_short_mib = free_mib
    title = f"{short_name(config.model.name)}, {config.quantization.label}, {report.facts.get('device', 'elsewhere')}"
    points = tables.points_of(title, cells, loads, found_knee)
    write_atomically(recorder.folder / POINTS, json.dumps(points, indent=1, default=note_text) + "\n")
    if task.pictures:
        draw_in_process(MODULE, recorder.folder)
    return result


def deliver(inputs: Prompted, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Draw the pictures if the recorded job has none."""
    if own_config(resolved.config, SweepConfig).pictures:
        draw_missing(MODULE, job.folder, POINTS)


def measure_cells(
    task: SweepConfig, stopwatch: Stopwatch, limits: MachineRates, recorder: Recorder, kept: KeptCells
) -> list[Cell]:
    """Run all cells in rounds, except what earlier starts have measured; warm-up rounds do not
    count."""
    cells, repeats = cells_of(task), RepeatLog(recorder.folder)
    rounds = task.warmup + task.repeats
    with recorder.progress(rounds * len(cells), "sweep") as bar:
        kept.warm_up(stopwatch, cells, rounds, task.warmup, bool(task.arrival_rates))
        for number in range(rounds):
            for cell in cells:
                prompt = cell.prompt_tokens or "of its own length"
                bar.describe(f"sweep: batch {cell.batch_size}, prompt {prompt}")
                figures = None if cell.note else kept.run(stopwatch, cell, number)
                if figures is not None and number >= task.warmup:
                    cell.repeats.append(figures)
                    repeats.add(
                        len(cell.repeats), {f"{name}/{cell.key}": value for name, value in figures.items()}
                    )
                step = bar.skip if kept.has(cell, number) else bar.advance
                step(1)
            # after the round: it takes memory, and the first round measures the peak
            kept.measure(limits, number)
    return cells


def measure_loads(task: SweepConfig, stopwatch: Stopwatch, recorder: Recorder, kept: KeptCells) -> list[Load]:
    """Send requests at each rate, the lowest one first; rates above one that did not fit are not
    tried."""
    loads = arrivals.loads_of(task, stopwatch.vocab_size, stopwatch.seed, stopwatch.real)
    with recorder.progress(sum(len(load.requests) for load in loads), "sweep") as bar:
        for at, load in enumerate(loads):
            bar.describe(f"sweep: {load.rate:g} requests/s")
            if kept.recall(load):
                bar.skip(len(load.requests))
                continue
            arrivals.run_load(stopwatch.engine, load, lambda: bar.advance(1))
            kept.keep_load(load)
            if not load.seconds:
                for later in loads[at + 1 :]:
                    later.note = note("not_tried_above", rate=load.rate)
                break
    return loads


def noise_of(cells: list[Cell], limits: MachineRates, beside: str) -> Note:
    """Return whether the machine was quiet enough to tell figures from noise, judged by the
    quartiles of the speeds."""
    known = [cell for cell in cells if cell.noise is not None]
    if not known:
        return note("noise_unknown", repeats=ENOUGH_TO_TELL)
    noisy = sum(cell.is_noisy for cell in known)
    reasons = []
    if noisy > MAX_NOISY_SHARE * len(known):
        reasons.append(note("cells_vary", count=noisy, total=len(known), share=NOISY))
    if limits.noise > NOISY:
        reasons.append(note("rates_vary", share=limits.noise))
    if beside:
        reasons.append(note("other_work", what=beside))
    if reasons:
        return note("noisy", reasons=tuple(reasons))
    return note("quiet", count=len(known) - noisy, total=len(known), share=NOISY)


def _best(cells: list[Cell]) -> dict[str, float]:
    speed = tables.speed_of(cells)
    best = max(cells, key=lambda cell: cell.median(speed))
    best_at = {"best_batch_size": best.batch_size, "best_prompt_tokens": best.prompt_tokens}
    first = min(cell.median("ttft_s") for cell in cells)
    return {f"best_{speed}": best.median(speed), "best_ttft_s": first, **best_at}


def _notes(cells: list[Cell], stopwatch: Stopwatch, limits: MachineRates) -> list[Note]:
    """Return the notes that a reader of the numbers needs."""
    measured = [cell for cell in cells if not cell.note]
    figures = measured[0].figures
    shares: list[dict[str, Any]] = [limits.shares(cell) for cell in measured]
    in_cache = any(share and share["decode_read_share"] > 1 for share in shares)
    applies = (
        (note("phases_unseen"), "output_tok_per_s" in figures),
        (note("no_token_times"), "itl_p50_s" not in figures),
        (note("text_in_pieces"), stopwatch.in_pieces),
        (note("no_arithmetic"), limits.arithmetic is None and "decode_tok_per_s" in figures),
        (note("no_limits"), limits.best is None and WORK[0] in figures),
        (note("weights_in_cache"), in_cache),
    )
    notes = [noted for noted, is_true in applies if is_true]
    if not stopwatch.energy.sources:
        notes += [note("no_energy", reason=reason) for reason in stopwatch.energy.why_not]
    if len(measured) < len(cells):
        missing = len(cells) - len(measured)
        notes.append(note("cells_not_measured", "warning", count=missing, total=len(cells)))
    return notes
