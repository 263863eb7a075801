"""A sweep's results as metrics, rows, series with steps, and the points of its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from statistics import median
from typing import Any

from runner.config.measures import SweepConfig
from runner.speed.arrivals import Load, keeps_up, offered_to
from runner.speed.by_turns import GAIN
from runner.speed.cells import ENERGY, GAPS, SPEEDS, Cell
from runner.speed.limits import MachineRates, nearer_to
from runner.speed.real_prompts import span

Series = dict[str, list[tuple[int, float]]]
OVER_BATCHES = ("decode_tok_per_s", "output_tok_per_s", "itl_p50_s", "seconds", GAIN)
OVER_PROMPTS = ("ttft_s", "prefill_tok_per_s")
OVER_RATES = ("answered_requests_per_s", "ttft_p95_s", "answer_p50_s", "answer_p95_s", "answer_p99_s")
PER_MINUTE = 60  # steps are whole numbers: the step of a rate is its requests per minute
AGGREGATES: dict[str, Callable[[list[float]], float]] = {"": median, "_min": min, "_max": max}


def speed_of(cells: Sequence[Cell]) -> str:
    """Return the speed that an engine reports: of decoding, or of whole answers."""
    return "decode_tok_per_s" if "decode_tok_per_s" in cells[0].figures else "output_tok_per_s"


def metrics_of_cells(cells: Sequence[Cell], limits: MachineRates) -> dict[str, float]:
    """Return every figure of every measured cell: median, lowest and highest value."""
    metrics: dict[str, float] = {}
    for cell in cells:
        for name, (suffix, aggregate) in product(cell.figures, AGGREGATES.items()):
            metrics[f"{name}{suffix}/{cell.key}"] = aggregate(cell.values(name))
        single = {"peak_rss_mib": cell.peak_rss_mib, "cuda_peak_mib": cell.cuda_peak_mib, "noise": cell.noise}
        metrics |= {f"{name}/{cell.key}": value for name, value in single.items() if value is not None}
        metrics |= {f"{name}/{cell.key}": value for name, value in limits.shares(cell).items()}
    return metrics


def metrics_of_loads(loads: Sequence[Load]) -> dict[str, float]:
    """Return every figure of every measured rate."""
    return {
        f"{name}/{load.key}": value for load in loads if load.seconds for name, value in load.figures.items()
    }


def _axes(cell: Cell, task: SweepConfig) -> dict[str, Any]:
    """Return a cell's position on the axes: new tokens and shares only if there are several."""
    position: dict[str, Any] = {"batch_size": cell.batch_size, "prompt_tokens": cell.prompt_tokens}
    position |= {"prompt_tokens": span(cell.lengths)} if not task.prompt_tokens else {}
    position |= {"new_tokens": cell.new_tokens} if len(task.new_tokens) > 1 else {}
    return position | ({"shared_prefix": cell.shared_prefix} if len(task.shared_prefix) > 1 else {})


def _digits(name: str) -> int:
    return (
        1
        if name.endswith(("_tok_per_s", "_mib", "p_per_s", "_gb_per_s"))
        else 3
        if name in ("seconds", "energy_j")
        else 4
    )


def rows_of_cells(cells: Sequence[Cell], task: SweepConfig) -> list[dict[str, Any]]:
    """Return the table of speeds: medians, and the range of the main speed."""
    measured = [cell for cell in cells if not cell.note]
    speed, rows = speed_of(measured), []
    figures = [name for name in ("ttft_s", *SPEEDS, "seconds") if name in measured[0].figures]
    for cell in cells:
        row = _axes(cell, task)
        for name in figures:
            row[name] = None if cell.note else round(cell.median(name), _digits(name))
            if name == speed:
                values = [] if cell.note else cell.values(name)
                row[f"{name.partition('_')[0]}_spread"] = (
                    f"{min(values):.1f}–{max(values):.1f}" if values else None
                )
        row["noise"] = (
            None if cell.noise is None else f"{cell.noise:.0%}{(' noisy' if cell.is_noisy else '')}"
        )
        row["peak_rss_mib"] = None if cell.note else round(cell.peak_rss_mib, 1)
        if any(cell_run.cuda_peak_mib is not None for cell_run in measured):
            row["cuda_peak_mib"] = None if cell.cuda_peak_mib is None else round(cell.cuda_peak_mib, 1)
        rows.append(row | ({"note": cell.note or ""} if len(measured) < len(cells) else {}))
    return rows


def rows_of_limits(cells: Sequence[Cell], task: SweepConfig, limits: MachineRates) -> list[dict[str, Any]]:
    """Return the table of gaps between tokens, energy, and the share of the machine's limits that
    cells reached."""
    rows = []
    for cell in cells:
        names = (*GAPS, "prefill_gflop_per_s", "decode_gb_per_s", *ENERGY)
        row: dict[str, Any] = {
            name: round(cell.median(name), _digits(name)) for name in names if name in cell.figures
        }
        if shares := limits.shares(cell):
            row["prefill_share"] = f"{shares['prefill_matrix_share']:.0%}"
            row["decode_share"] = f"{shares['decode_read_share']:.0%}"
            row["decode_nearer_to"] = nearer_to(shares)
        if row:
            rows.append(_axes(cell, task) | row)
    return rows


def rows_of_loads(loads: Sequence[Load], knee: float | None) -> list[dict[str, Any]]:
    """Return the table of rates."""
    rows: list[dict[str, Any]] = []
    lowest = next((load for load in loads if load.seconds), loads[0])
    for load in loads:
        row: dict[str, Any] = {"requests_per_s": load.rate, "requests": len(load.requests)}
        if load.seconds:
            figures = load.figures
            row["offered"] = round(offered_to(load, lowest), 3)
            row["answers_per_s"] = round(figures["answered_requests_per_s"], 3)
            row["tok_per_s"] = round(figures["output_tok_per_s"], 1)
            row |= {
                name: round(value, 3)
                for name, value in figures.items()
                if name.startswith(("ttft_", "answer_"))
            }
            row["keeps_up"] = "knee" if load.rate == knee else "yes" if keeps_up(load, lowest) else "no"
        rows.append(row | ({"note": load.note} if any(load.note for load in loads) else {}))
    return rows


def series_of(cells: Sequence[Cell], loads: Sequence[Load], task: SweepConfig) -> Series:
    """Return the curves for MLflow: over batch sizes, over prompt lengths, over requests per
    minute."""
    series: Series = {}
    for cell in cells:
        rest = f"_new_{cell.new_tokens}" if len(task.new_tokens) > 1 else ""
        rest += f"_shared_{100 * cell.shared_prefix:g}" if len(task.shared_prefix) > 1 else ""
        for name in (*OVER_BATCHES, *OVER_PROMPTS):
            if name in cell.figures:
                fixed = f"prompt_{cell.prompt_tokens}" if task.prompt_tokens else "prompts"
                over, step = f"over_batch_size_{fixed}", cell.batch_size
                if name in OVER_PROMPTS and task.prompt_tokens:
                    over, step = f"over_prompt_tokens_batch_{cell.batch_size}", cell.prompt_tokens
                series.setdefault(f"{name}/{over}{rest}", []).append((step, cell.median(name)))
    for load in (load for load in loads if load.seconds):
        for name in (key for key in OVER_RATES if key in load.figures):
            step = round(PER_MINUTE * load.rate)
            series.setdefault(f"{name}/over_requests_per_minute", []).append((step, load.figures[name]))
    return {name: sorted(points) for name, points in series.items()}


def points_of(title: str, cells: Sequence[Cell], loads: Sequence[Load], knee: float | None) -> dict[str, Any]:
    """Return the data of the pictures."""
    return {
        "title": title,
        "cells": [
            {
                "batch_size": cell.batch_size,
                "prompt_tokens": cell.prompt_tokens,
                "new_tokens": cell.new_tokens,
                "shared_prefix": cell.shared_prefix,
                "note": cell.note or "",
                **{name: [cell.median(name), *_ends(cell.values(name))] for name in cell.figures},
            }
            for cell in cells
        ],
        "loads": [{"rate": load.rate} | load.figures for load in loads if load.seconds],
        "knee": knee,
    }


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
