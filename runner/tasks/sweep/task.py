"""task=sweep: measures speed by batch size, prompt length, new tokens and shared prefix.

Repeats are interleaved – every cell once, then every cell again – so that a drift of a shared
machine affects all cells equally; the machine's own limits are measured after each round. A
cell that does not fit in memory becomes a table row with a note; the others continue. After the
cells, requests may arrive by a clock (`task.arrival_rates`).
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from runner.config.measures import SweepConfig
from runner.config.prompts import Framing
from runner.core.energy import EnergyCounters
from runner.records.measurements import make_measurement_notes
from runner.render.notes import format_note, render_note_cells, render_notes
from runner.render.titles import BESIDE_LIMITS, BY_CLOCK, WITHOUT_GUESSES, format_sustainable_request_rate
from runner.speed import arrivals, gains, real_prompts, tables
from runner.speed.arrivals import RequestLoad
from runner.speed.cells import ENOUGH_TO_TELL, NOISY, WORK, Cell, CellRunner, create_sweep_cells
from runner.speed.limits import MachineLimits
from runner.speed.pictures import MODULE, POINTS
from runner.speed.real_prompts import RealPrompts
from runner.speed.synthetic import check_context_length, context_length_of_report
from runner.tasks import (
    Job,
    Recorder,
    ResolvedJob,
    RunnerConfig,
    TaskContext,
    TaskInputs,
    Uses,
    exceed_context_hint,
    get_model_kind,
    report_saved_on_interrupt,
    typed_task_config,
)
from runner.tasks.sweep.recorded_cells import RecordedCells
from runner_base import JobFailed, Result, machine, short_model_name, write_text_atomically
from runner_base.drawing import draw_missing_plots, draw_plots_in_child_process
from runner_base.notes import Note, note
from runner_base.repeats import RepeatLog
from runner_engine import Capability, require_capabilities
from runner_engine.render.notes import render_engine_note

VERSION = 3
USES = frozenset({Uses.weights, Uses.engine, Uses.machine})
FROM_LEDGER = True


MAX_NOISY_SHARE = 0.25  # of the cells: if more are too noisy, so is the job


@dataclass
class SweepInputs(TaskInputs):
    """Inputs of task=sweep: the configured prompts, or None for random tokens."""

    real: RealPrompts | None


def prepare(config: RunnerConfig) -> SweepInputs:
    """Read and hash the configured prompts. Random tokens are generated later."""
    real = real_prompts.read_sweep_prompts(typed_task_config(config, SweepConfig))
    return (
        SweepInputs({}, real) if real is None else SweepInputs({"prompts": real.sha256}, real, data=real.data)
    )


def check_lengths(inputs: SweepInputs, resolved: ResolvedJob) -> list[str]:
    """Raise ConfigError if random prompts exceed the model's context length. Configured prompts
    are checked later.
    """
    task = typed_task_config(resolved.config, SweepConfig)
    if inputs.real is None:
        room = get_model_kind(resolved.config.model).positions(resolved).room
        check_context_length(
            room, max(task.prompt_tokens), max(task.new_tokens), exceed_context_hint(resolved)
        )
    return []


def run(inputs: SweepInputs, context: TaskContext) -> Result:
    """Measure every combination of settings `repeats` times, then the latency at every request rate."""
    config, engine, recorder = context.config, context.engine, context.recorder
    task = typed_task_config(config, SweepConfig)
    # without lengths: they are counted as prompts are sent
    real = None if inputs.real is None else replace(inputs.real, lengths=[])
    is_chat = real is not None and task.format is Framing.chat
    prompts = Capability.chat if is_chat else Capability.token_ids
    require_capabilities(engine.capabilities, "task=sweep", [prompts, Capability.fixed_length])
    free_mib, contention = machine.available_memory_mib(), machine.Contention()
    with recorder.create_progress_bar(None, "sweep: loading"):
        report = engine.load()
    if real is None:
        check_context_length(context_length_of_report(report), max(task.prompt_tokens), max(task.new_tokens))
    else:
        real.omit_too_long_prompts(engine, report.metrics.get("max_positions", inf), max(task.new_tokens))
    limits = MachineLimits(engine.arithmetic())
    on_gpus, is_here = (
        "cuda" in report.facts.get("device", ""),
        Capability.own_memory in engine.capabilities,
    )
    energy = EnergyCounters(with_gpus=on_gpus, is_elsewhere=not is_here)
    stopwatch = CellRunner(engine, report, config.seed, limits.arithmetic, energy, real)
    stopwatch.guesses = config.generation.speculation.drafts_every_step
    kept = RecordedCells(recorder.folder, contention)
    total = (task.warmup + task.repeats) * len(create_sweep_cells(task)) + len(task.arrival_rates)
    with closing(kept), report_saved_on_interrupt(kept.done, f" of {total} measurements"):
        cells = measure_sweep_setting_combinations(task, stopwatch, limits, recorder, kept)
        loads = (
            measure_latency_at_request_rates(task, stopwatch, recorder, kept)
            if any(not cell.note for cell in cells)
            else []
        )
    measured = [cell for cell in cells if not cell.note]
    if not measured:
        reason = format_note(cells[0].note or "")
        raise JobFailed(f"every measurement of the sweep failed. The first error: {reason}", code="failed")
    if real is not None:
        for cell in cells:
            cell.prompt_tokens = real.median_length
    knee = arrivals.find_sustainable_request_rate(loads)
    found_knee = None if knee is None or knee.is_highest else knee.rate

    notes: list[Note | str] = []
    rows = render_note_cells(tables.build_sweep_result_rows(cells, task))
    result = Result(
        dict(report.metrics), rows, dict(report.facts), [render_engine_note(each) for each in report.notes]
    )
    result.metrics |= _build_best_sweep_cell_metrics(measured) | {
        "load_s": engine.stats.load_s,
        "peak_rss_mib": max(cell.peak_rss_mib for cell in measured),
        "cells": len(cells),
        "cells_not_measured": len(cells) - len(measured),
        "noisy_cells": sum(cell.is_noisy for cell in cells),
        **tables.aggregate_sweep_cell_metrics(measured, limits),
        **tables.request_rate_metrics(loads),
        **gains.compute_speculation_gain_metrics(measured),
    }
    result.metrics |= (
        engine.stats.compute_peak_memory_metrics(report.metrics.get("weight_mib"))
        | engine.stats.multiprocess_engine_metrics
    )
    if limits.best_hardware_rates is not None:
        result.metrics["matrix_gflop_per_s"] = limits.best_hardware_rates.matrix_gflop_per_s
        result.metrics["read_gb_per_s"] = limits.best_hardware_rates.read_gb_per_s
    if knee is not None:
        result.metrics["knee_requests_per_s"] = knee.rate or 0.0  # 0: it is below the lowest rate
        result.facts["keeps_up_to"] = format_sustainable_request_rate(knee.rate, knee.is_highest)
    result.tables = (
        {BESIDE_LIMITS: tables.build_hardware_utilization_rows(measured, task, limits)}
        if measured[0].metric_names
        else {}
    )
    if against_none := gains.build_speculation_gain_rows(measured):
        result.tables[WITHOUT_GUESSES] = against_none
    result.tables |= engine.stats.build_tables(report.parts)
    if loads:
        result.tables[BY_CLOCK] = render_note_cells(tables.build_request_rate_table_rows(loads, found_knee))
    result.series = tables.create_mlflow_metric_series(measured, loads, task)
    result.facts |= {"measured": kept.describe_contention(), "machine": machine.describe_hardware()}
    result.facts["noise"] = format_note(
        build_measurement_noise_note(cells, limits, kept.describe_other_load())
    )
    notes += [
        *make_measurement_notes(kept.count, total, kept.outdated),
        *_build_result_notes(cells, stopwatch, limits),
    ]
    notes += gains.make_speculation_gain_notes(measured, report.facts.get("dtype", ""), real is not None)
    if real is not None:
        result.facts["prompts"] = real.description
        notes += [*real.notes, *[note("mean_length")] * (limits.arithmetic is not None)]
    notes += [knee.note] if knee is not None else []
    result.notes += render_notes(notes)
    result.notes += map(render_engine_note, engine.stats.notes)  # the notes of cells name shortages of rows
    if len(measured) < len(cells) and report.facts.get("device") == "cpu":
        result.ran_short_mib = free_mib
    title = (
        f"{short_model_name(config.model.name)}, {config.quantization.label}, "
        f"{report.facts.get('device', 'elsewhere')}"
    )
    points = tables.build_picture_data(title, cells, loads, found_knee)
    write_text_atomically(recorder.folder / POINTS, json.dumps(points, indent=1, default=format_note) + "\n")
    if task.pictures:
        draw_plots_in_child_process(MODULE, recorder.folder)
    return result


def deliver(inputs: SweepInputs, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Draw the plots of a finished job if they are missing."""
    if typed_task_config(resolved.config, SweepConfig).pictures:
        draw_missing_plots(MODULE, job.folder, POINTS)


def measure_sweep_setting_combinations(
    task: SweepConfig,
    cell_runner: CellRunner,
    limits: MachineLimits,
    recorder: Recorder,
    recorded_cells: RecordedCells,
) -> list[Cell]:
    """Measure all combinations of settings in rounds. The first rounds warm up, and recorded
    measurements are not repeated.
    """
    cells, repeats = create_sweep_cells(task), RepeatLog(recorder.folder)
    rounds = task.warmup + task.repeats
    with recorder.create_progress_bar(rounds * len(cells), "sweep", "measurements") as bar:
        recorded_cells.warm_up_incomplete_cells(
            cell_runner, cells, rounds, task.warmup, bool(task.arrival_rates)
        )
        for number in range(rounds):
            for cell in cells:
                prompt = f"{cell.prompt_tokens} prompt tokens" if cell.prompt_tokens else "real prompts"
                bar.set_title(f"sweep: batch size {cell.batch_size}, {prompt}")
                figures = (
                    None
                    if cell.note
                    else recorded_cells.measure_or_restore_sweep_cell(cell_runner, cell, number)
                )
                if figures is not None and number >= task.warmup:
                    cell.repeats.append(figures)
                    repeats.add_repeat(
                        len(cell.repeats), {f"{name}/{cell.key}": value for name, value in figures.items()}
                    )
                step = bar.skip if recorded_cells.is_measured(cell, number) else bar.advance
                step(1)
            # after the round: it takes memory, and the first round measures the peak
            recorded_cells.measure_machine_rates(limits, number)
    return cells


def measure_latency_at_request_rates(
    task: SweepConfig, cell_runner: CellRunner, recorder: Recorder, recorded_cells: RecordedCells
) -> list[RequestLoad]:
    """Send requests at each rate, lowest first. If a rate fails, higher rates are skipped."""
    loads = arrivals.create_request_loads(task, cell_runner.vocab_size, cell_runner.seed, cell_runner.real)
    with recorder.create_progress_bar(sum(len(load.requests) for load in loads), "sweep", "requests") as bar:
        for at, load in enumerate(loads):
            bar.set_title(f"sweep: {load.rate:g} requests/s")
            if recorded_cells.restore_request_timings(load):
                bar.skip(len(load.requests))
                continue
            arrivals.run_requests_at_arrival_rate(cell_runner.engine, load, lambda: bar.advance(1))
            recorded_cells.store_request_timings(load)
            if not load.seconds:
                for later in loads[at + 1 :]:
                    later.note = note("not_tried_above", rate=load.rate)
                break
    return loads


def build_measurement_noise_note(cells: list[Cell], limits: MachineLimits, contention: str) -> Note:
    known = [cell for cell in cells if cell.noise is not None]
    if not known:
        return note("noise_unknown", repeats=ENOUGH_TO_TELL)
    noisy = sum(cell.is_noisy for cell in known)
    reasons = []
    if noisy > MAX_NOISY_SHARE * len(known):
        reasons.append(note("cells_vary", count=noisy, total=len(known), share=NOISY))
    if limits.noise > NOISY:
        reasons.append(note("rates_vary", share=limits.noise))
    if contention:
        reasons.append(note("other_work", what=contention))
    if reasons:
        return note("noisy", reasons=tuple(reasons))
    return note("quiet", count=len(known) - noisy, total=len(known), share=NOISY)


def _build_best_sweep_cell_metrics(cells: list[Cell]) -> dict[str, float]:
    speed = tables.select_speed_metric(cells)
    best = max(cells, key=lambda cell: cell.median(speed))
    best_at = {"best_batch_size": best.batch_size, "best_prompt_tokens": best.prompt_tokens}
    first = min(cell.median("ttft_s") for cell in cells)
    return {f"best_{speed}": best.median(speed), "best_ttft_s": first, **best_at}


def _build_result_notes(cells: list[Cell], cell_runner: CellRunner, limits: MachineLimits) -> list[Note]:
    measured = [cell for cell in cells if not cell.note]
    figures = measured[0].metric_names
    shares: list[dict[str, Any]] = [limits.compute_hardware_utilization(cell) for cell in measured]
    in_cache = any(share and share["decode_read_share"] > 1 for share in shares)
    applies = (
        (note("phases_unseen"), "output_tok_per_s" in figures),
        (note("no_token_times"), "itl_p50_s" not in figures),
        (note("text_in_pieces"), cell_runner.in_pieces),
        (note("no_arithmetic"), limits.arithmetic is None and "decode_tok_per_s" in figures),
        (note("no_limits"), limits.best_hardware_rates is None and WORK[0] in figures),
        (note("weights_in_cache"), in_cache),
    )
    notes = [noted for noted, is_true in applies if is_true]
    if not cell_runner.energy.sources:
        notes += [note("no_energy", reason=reason) for reason in cell_runner.energy.why_not]
    if len(measured) < len(cells):
        missing = len(cells) - len(measured)
        notes.append(note("cells_not_measured", "warning", count=missing, total=len(cells)))
    return notes
