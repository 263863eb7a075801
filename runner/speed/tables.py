"""Converts a sweep's results to metrics, table rows, MLflow metric series and plot data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from statistics import median
from typing import Any

from runner.config.measures import SweepConfig
from runner.speed.arrivals import RequestLoad, estimate_offered_rate, is_rate_sustained
from runner.speed.cells import ENERGY, GAPS, SPEEDS, Cell
from runner.speed.limits import MachineLimits, get_nearest_limit_name
from runner.speed.real_prompts import format_length_range
from runner.speed.speculation_pairs import GAIN

Series = dict[str, list[tuple[int, float]]]
OVER_BATCHES = ("decode_tok_per_s", "output_tok_per_s", "itl_p50_s", "seconds", GAIN)
OVER_PROMPTS = ("ttft_s", "prefill_tok_per_s")
OVER_RATES = ("answered_requests_per_s", "ttft_p95_s", "answer_p50_s", "answer_p95_s", "answer_p99_s")
PER_MINUTE = 60  # steps are whole numbers: the step of a rate is its requests per minute
AGGREGATES: dict[str, Callable[[list[float]], float]] = {"": median, "_min": min, "_max": max}


def select_speed_metric(cells: Sequence[Cell]) -> str:
    return "decode_tok_per_s" if "decode_tok_per_s" in cells[0].metric_names else "output_tok_per_s"


def aggregate_sweep_cell_metrics(cells: Sequence[Cell], limits: MachineLimits) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for cell in cells:
        for name, (suffix, aggregate) in product(cell.metric_names, AGGREGATES.items()):
            metrics[f"{name}{suffix}/{cell.key}"] = aggregate(cell.values(name))
        single = {"peak_rss_mib": cell.peak_rss_mib, "cuda_peak_mib": cell.cuda_peak_mib, "noise": cell.noise}
        metrics |= {f"{name}/{cell.key}": value for name, value in single.items() if value is not None}
        metrics |= {
            f"{name}/{cell.key}": value for name, value in limits.compute_hardware_utilization(cell).items()
        }
    return metrics


def request_rate_metrics(loads: Sequence[RequestLoad]) -> dict[str, float]:
    return {
        f"{name}/{load.metric_suffix}": value
        for load in loads
        if load.seconds
        for name, value in load.metrics.items()
    }


def _select_varying_settings(cell: Cell, task: SweepConfig) -> dict[str, Any]:
    """Return the settings of a measurement, without those that are the same in the whole sweep."""
    position: dict[str, Any] = {"batch_size": cell.batch_size, "prompt_tokens": cell.prompt_tokens}
    position |= {"prompt_tokens": format_length_range(cell.lengths)} if not task.prompt_tokens else {}
    position |= {"new_tokens": cell.new_tokens} if len(task.new_tokens) > 1 else {}
    return position | ({"shared_prefix": cell.shared_prefix} if len(task.shared_prefix) > 1 else {})


def _num_decimals(metric: str) -> int:
    return (
        1
        if metric.endswith(("_tok_per_s", "_mib", "p_per_s", "_gb_per_s"))
        else 3
        if metric in ("seconds", "energy_j")
        else 4
    )


def build_sweep_result_rows(cells: Sequence[Cell], task: SweepConfig) -> list[dict[str, Any]]:
    measured = [cell for cell in cells if not cell.note]
    speed, rows = select_speed_metric(measured), []
    figures = [name for name in ("ttft_s", *SPEEDS, "seconds") if name in measured[0].metric_names]
    for cell in cells:
        row = _select_varying_settings(cell, task)
        for name in figures:
            row[name] = None if cell.note else round(cell.median(name), _num_decimals(name))
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


def build_hardware_utilization_rows(
    cells: Sequence[Cell], task: SweepConfig, limits: MachineLimits
) -> list[dict[str, Any]]:
    rows = []
    for cell in cells:
        names = (*GAPS, "prefill_gflop_per_s", "decode_gb_per_s", *ENERGY)
        row: dict[str, Any] = {
            name: round(cell.median(name), _num_decimals(name)) for name in names if name in cell.metric_names
        }
        if shares := limits.compute_hardware_utilization(cell):
            row["prefill_share"] = f"{shares['prefill_matrix_share']:.0%}"
            row["decode_share"] = f"{shares['decode_read_share']:.0%}"
            row["decode_nearer_to"] = get_nearest_limit_name(shares)
        if row:
            rows.append(_select_varying_settings(cell, task) | row)
    return rows


def build_request_rate_table_rows(
    loads: Sequence[RequestLoad], sustainable_rate: float | None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    lowest = next((load for load in loads if load.seconds), loads[0])
    for load in loads:
        row: dict[str, Any] = {"requests_per_s": load.rate, "requests": len(load.requests)}
        if load.seconds:
            figures = load.metrics
            row["offered"] = round(estimate_offered_rate(load, lowest), 3)
            row["answers_per_s"] = round(figures["answered_requests_per_s"], 3)
            row["tok_per_s"] = round(figures["output_tok_per_s"], 1)
            row |= {
                name: round(value, 3)
                for name, value in figures.items()
                if name.startswith(("ttft_", "answer_"))
            }
            row["keeps_up"] = (
                "knee"
                if load.rate == sustainable_rate
                else "yes"
                if is_rate_sustained(load, lowest)
                else "no"
            )
        rows.append(row | ({"note": load.note} if any(load.note for load in loads) else {}))
    return rows


def create_mlflow_metric_series(
    cells: Sequence[Cell], loads: Sequence[RequestLoad], task: SweepConfig
) -> Series:
    """Return MLflow metric series over batch size, prompt length and requests per minute."""
    series: Series = {}
    for cell in cells:
        rest = f"_new_{cell.new_tokens}" if len(task.new_tokens) > 1 else ""
        rest += f"_shared_{100 * cell.shared_prefix:g}" if len(task.shared_prefix) > 1 else ""
        for name in (*OVER_BATCHES, *OVER_PROMPTS):
            if name in cell.metric_names:
                fixed = f"prompt_{cell.prompt_tokens}" if task.prompt_tokens else "prompts"
                over, step = f"over_batch_size_{fixed}", cell.batch_size
                if name in OVER_PROMPTS and task.prompt_tokens:
                    over, step = f"over_prompt_tokens_batch_{cell.batch_size}", cell.prompt_tokens
                series.setdefault(f"{name}/{over}{rest}", []).append((step, cell.median(name)))
    for load in (load for load in loads if load.seconds):
        for name in (key for key in OVER_RATES if key in load.metrics):
            step = round(PER_MINUTE * load.rate)
            series.setdefault(f"{name}/over_requests_per_minute", []).append((step, load.metrics[name]))
    return {name: sorted(points) for name, points in series.items()}


def build_picture_data(
    title: str, cells: Sequence[Cell], loads: Sequence[RequestLoad], sustainable_rate: float | None
) -> dict[str, Any]:
    return {
        "title": title,
        "cells": [
            {
                "batch_size": cell.batch_size,
                "prompt_tokens": cell.prompt_tokens,
                "new_tokens": cell.new_tokens,
                "shared_prefix": cell.shared_prefix,
                "note": cell.note or "",
                **{name: [cell.median(name), *_min_and_max(cell.values(name))] for name in cell.metric_names},
            }
            for cell in cells
        ],
        "loads": [{"rate": load.rate} | load.metrics for load in loads if load.seconds],
        "knee": sustainable_rate,
    }


def _min_and_max(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
