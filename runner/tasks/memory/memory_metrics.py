"""Metrics of task=memory: memory by cause, medians over repeats, predictions, and growth of the KV
cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import linear_regression, median
from typing import Any

from runner.render.notes import render_notes
from runner_base import Result
from runner_base.machine import describe_hardware
from runner_base.notes import Note, note
from runner_base.repeats import FRESH_PROCESSES, REPEATS_FACT
from runner_engine import Footprint, Workload

AT_START = ("import", "load", "first pass")
IN_POINTS = ("prefill", "decode")
PARTS = ("weights", "kv", "activation", "runtime")  # of a stage's memory above that of the imports
SPREAD = ("peak_rss_mib", "steady_rss_mib", "load_peak_rss_mib", "load_s", "decode_tok_per_s", "cuda_peak_mib",
          "peak_over_baseline_mib", "kv_mib", "kv_per_1000_tokens_mib")  # fmt: skip

Figures = dict[str, float]


@dataclass
class MemoryRepeat:
    """Memory measurements of one repeat."""

    start: dict[str, Figures] = field(default_factory=dict)
    stages: dict[tuple[int, str], Figures] = field(default_factory=dict)
    kv: dict[int, tuple[float, int]] = field(default_factory=dict)  # MiB, and of how many tokens
    # of the points that were measured to their end
    speeds: dict[int, Figures] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)  # of the engine: metrics, facts, notes
    peak_since_start: bool = False

    def is_measured(self, point_index: int) -> bool:
        """Return whether a combination of batch size and context length was measured or has failed."""
        return point_index in self.speeds or point_index in self.failed

    def add_event(self, event: dict[str, Any]) -> None:
        """Add an event of the memory probe process: a finished stage, a finished measurement or the
        engine report.

        If an event is repeated after a restart, the values of the first start are kept.
        """
        if "stage" in event:
            self.peak_since_start |= event["peak_since_start"]
            if event["point"] is None:
                self.start.setdefault(event["stage"], event["figures"])
            else:
                self.stages[event["point"], event["stage"]] = event["figures"]
        elif "failed" in event:
            self.failed[event["point"]] = event["failed"]
        elif "speed" in event:
            self.speeds[event["point"]] = event["speed"]
            if event["kv_mib"] is not None:
                self.kv[event["point"]] = event["kv_mib"], event["kv_tokens"]
        else:
            self.report = self.report or event

    @property
    def is_on_gpu(self) -> bool:
        return any("cuda_peak_mib" in figures for figures in self.stages.values())

    def compute_peak_above_import_mib(self, stage_metrics: Figures) -> float:
        """Return a stage's peak memory in MiB in excess of the memory after the imports. On a GPU,
        return the CUDA allocator's peak. The imports' own stage has none.

        While a checkpoint is read, its pages do not count, because the system can drop them at any
        time.
        """
        if self.is_on_gpu:
            return stage_metrics.get("cuda_peak_mib", 0.0)
        if stage_metrics is self.start["import"]:
            return 0.0
        kind = "anon" if "peak_anon_mib" in stage_metrics else "rss"
        return stage_metrics[f"peak_{kind}_mib"] - self.start["import"][f"steady_{kind}_mib"]

    def break_down_peak_memory_mib(self, stage: str, point_index: int | None = None) -> Figures:
        """Split a stage's peak memory into weights, KV cache, activations and the rest, in MiB."""
        figures = self.start[stage] if point_index is None else self.stages[point_index, stage]
        peak_mib = self.compute_peak_above_import_mib(figures)
        is_anonymous = "peak_anon_mib" in figures
        if self.is_on_gpu:
            steady_mib = figures.get("cuda_steady_mib", 0.0)
        else:
            key = "steady_anon_mib" if is_anonymous else "steady_rss_mib"
            steady_mib = figures[key] - self.start["import"][key]
        weights_mib = figures["own_weights_mib" if is_anonymous and not self.is_on_gpu else "weights_mib"]
        kv_mib = 0.0
        if point_index is not None and point_index in self.kv:
            total_mib, tokens = self.kv[point_index]
            kv_mib = total_mib * min(figures["kv_tokens"] / tokens, 1.0)
        values = (weights_mib, kv_mib, peak_mib - steady_mib, steady_mib - weights_mib - kv_mib)
        return dict(zip(PARTS, values, strict=True))

    def find_largest_measured_point(self) -> int:
        """Return the index of the largest combination of batch size and context length that was measured."""
        return max(self.speeds)

    def compute_kv_mib_per_1000_tokens(self) -> float | None:
        """Return the growth of the KV cache in MiB per 1,000 tokens, by linear regression. None with
        fewer than two token counts.
        """
        points = [(tokens / 1000, mib) for mib, tokens in self.kv.values()]
        if len({tokens for tokens, _ in points}) < 2:
            return None
        return linear_regression(*zip(*points, strict=True)).slope

    def compute_metrics(self) -> dict[str, float]:
        """Return the metrics of this repeat. Metrics of stages are for the largest batch and context."""
        start, at = self.start["import"], self.find_largest_measured_point()
        stages = {"load": self.start["load"]} | {stage: self.stages[at, stage] for stage in IN_POINTS}
        every = [*self.start.values(), *self.stages.values()]
        end = stages["decode"]
        peak_mib = max(figures["peak_rss_mib"] for figures in every)
        metrics: dict[str, float] = dict(self.report["metrics"]) | self.speeds[at]
        metrics |= {
            "import_s": start["seconds"],
            "peak_rss_mib": peak_mib,
            "steady_rss_mib": end["steady_rss_mib"],
            "pss_mib": end["pss_mib"],
            "mapped_files_mib": end["pss_file_mib"] - start["pss_file_mib"],
            "baseline_mib": start["steady_rss_mib"],
            "baseline_anon_mib": start["steady_anon_mib"],
            "peak_over_baseline_mib": max(map(self.compute_peak_above_import_mib, every)),
            "load_peak_anon_mib": self.start["load"]["peak_anon_mib"],
        }
        for stage, figures in stages.items():
            for key in ("peak_rss_mib", "steady_rss_mib", "steady_anon_mib"):
                metrics[f"{stage}_{key}"] = figures[key]
        highest = max(IN_POINTS, key=lambda stage: self.compute_peak_above_import_mib(stages[stage]))
        metrics |= {
            f"{part}_held_mib": value for part, value in self.break_down_peak_memory_mib(highest, at).items()
        }
        if at in self.kv:
            metrics["kv_mib"] = self.kv[at][0]
        if (slope := self.compute_kv_mib_per_1000_tokens()) is not None:
            metrics["kv_per_1000_tokens_mib"] = slope
        if "cuda_peak_mib" in end:
            for key in ("cuda_peak_mib", "cuda_reserved_mib"):
                metrics[key] = max(figures.get(key, 0.0) for figures in every)
            metrics["cuda_steady_mib"] = end["cuda_steady_mib"]
        return metrics


def summarize_memory_repeats(
    repeats: list[MemoryRepeat],
    measured_workloads: list[Workload],
    predicted_footprints: list[Footprint | None],
) -> tuple[Result, dict[str, Any]]:
    """Return the job's result with the median of each metric over all repeats, and the plot data."""
    measured = [run.compute_metrics() for run in repeats]
    shared = [key for key in measured[0] if all(key in values for values in measured)]
    metrics = {key: median(values[key] for values in measured) for key in shared}
    for key in SPREAD:
        if key in metrics:
            metrics[f"{key}_min"] = min(values[key] for values in measured)
            metrics[f"{key}_max"] = max(values[key] for values in measured)
    metrics["repeats"] = len(repeats)
    metrics["points"] = len(measured_workloads)
    failed = {number: why for run in reversed(repeats) for number, why in run.failed.items()}
    metrics["points_not_measured"] = len(failed)
    report = repeats[0].report
    # text: they come from the probe's process
    notes: list[Note | str] = [*dict.fromkeys(text for run in repeats for text in run.report["notes"])]
    at = max(run.find_largest_measured_point() for run in repeats)
    prediction = predicted_footprints[at]
    if prediction is None:
        notes.append(note("no_prediction"))
    else:
        metrics |= _compute_memory_prediction_metrics(metrics, prediction, measured_workloads[at])
    rows = _build_memory_by_stage_rows(repeats, measured_workloads, predicted_footprints, failed)
    notes += _build_memory_notes(repeats, metrics, failed)
    drawn: dict[str, Any] = {"rows": rows, "kv": [], "bytes_per_token": None}
    for number, (batch, prompt, new) in enumerate(measured_workloads):
        kv = [run.kv[number] for run in repeats if number in run.kv]
        if kv:
            values = [mib for mib, _ in kv]
            drawn["kv"].append({"batch": batch, "tokens": kv[0][1], "context": prompt + new, "mib": median(values),
                                "low": min(values), "high": max(values)})  # fmt: skip
    if prediction is not None:
        drawn["bytes_per_token"] = prediction.decode_kv_bytes / (
            measured_workloads[at][0] * (measured_workloads[at][1] + measured_workloads[at][2])
        )
    facts = report["facts"] | {"machine": describe_hardware(), REPEATS_FACT: FRESH_PROCESSES}
    return Result(metrics, rows, facts, render_notes(notes)), drawn


def _compute_memory_prediction_metrics(
    metrics: dict[str, float], predicted: Footprint, point: Workload
) -> dict[str, float]:
    """Return the predicted memory for the largest batch and context, and the relative errors of the
    predictions.
    """
    rows, prompt_tokens, new_tokens = point
    values = {
        "predicted_weight_mib": predicted.weight_mib,
        "predicted_weights_held_mib": predicted.resident_weight_mib,
        "predicted_activation_mib": predicted.activation_mib,
        "predicted_runtime_mib": predicted.runtime_mib,
        "predicted_load_mib": predicted.load_mib,
        "predicted_total_mib": predicted.total_mib,
        "kv_cache_mib": predicted.kv_cache_mib,
    }
    if metrics["weight_mib"]:
        values["weight_prediction_error"] = predicted.weight_mib / metrics["weight_mib"] - 1
        held_mib = metrics["peak_over_baseline_mib"]
        values["total_prediction_error"] = predicted.total_mib / held_mib - 1 if held_mib > 0 else 0.0
    if metrics.get("kv_mib"):
        # the KV cache was measured when each row had all but its last two tokens
        cached_mib = predicted.kv_cache_mib * (prompt_tokens + new_tokens - 2) / (prompt_tokens + new_tokens)
        values["kv_prediction_error"] = cached_mib / metrics["kv_mib"] - 1
    if "kv_per_1000_tokens_mib" in metrics:
        values["predicted_kv_per_1000_tokens_mib"] = (
            1000 * predicted.kv_cache_mib / (rows * (prompt_tokens + new_tokens))
        )
    return values


def _build_memory_notes(
    repeats: list[MemoryRepeat], metrics: dict[str, float], failed: dict[int, str]
) -> list[Note]:
    notes = []
    if any(run.peak_since_start for run in repeats):
        notes.append(note("peaks_since_start"))
    if not repeats[0].is_on_gpu:
        notes.append(note("what_peaks_are"))
    if failed:
        notes.append(note("points_not_measured", "warning", count=len(failed), total=metrics["points"]))
    return notes


def _build_memory_by_stage_rows(
    repeats: list[MemoryRepeat],
    measured_workloads: list[Workload],
    predicted_footprints: list[Footprint | None],
    failure_reasons: dict[int, str],
) -> list[dict[str, Any]]:
    """Return a table row per stage, batch size and context length, with medians over repeats and the
    prediction.
    """
    rows = [
        _build_memory_stage_row(repeats, None, stage, None, predicted_footprints[0]) for stage in AT_START
    ]
    for number, point in enumerate(measured_workloads):
        measured = [run for run in repeats if number in run.speeds]
        if measured:
            rows += [
                _build_memory_stage_row(measured, number, stage, point, predicted_footprints[number])
                for stage in IN_POINTS
            ]
        else:
            rows.append({"stage": "not measured", "batch": point[0], "context": point[1] + point[2]})
    if failure_reasons:
        for row, number in _number_rows_by_point(rows, measured_workloads):
            row["note"] = failure_reasons.get(number, "")
    return rows


def _number_rows_by_point(
    rows: list[dict[str, Any]], points: list[Workload]
) -> list[tuple[dict[str, Any], int]]:
    numbers = {(point[0], point[1] + point[2]): number for number, point in enumerate(points)}
    return [(row, numbers[row["batch"], row["context"]]) for row in rows if row.get("batch")]


def _build_memory_stage_row(
    repeats: list[MemoryRepeat],
    point_number: int | None,
    stage: str,
    point: Workload | None,
    predicted_footprint: Footprint | None,
) -> dict[str, Any]:
    figures = [
        run.start[stage] if point_number is None else run.stages[point_number, stage] for run in repeats
    ]
    peaks = [run.compute_peak_above_import_mib(usage) for run, usage in zip(repeats, figures, strict=True)]
    row: dict[str, Any] = {
        "stage": stage,
        "batch": point and point[0],
        "context": point and point[1] + point[2],
    }
    row["seconds"] = round(median(figure["seconds"] for figure in figures), 2)
    for part in PARTS:
        row[f"{part}_mib"] = round(
            median(run.break_down_peak_memory_mib(stage, point_number)[part] for run in repeats), 1
        )
    row["peak_mib"], row["spread"] = round(median(peaks), 1), f"{min(peaks):.0f}–{max(peaks):.0f}"
    by_stage = {}
    if predicted_footprint is not None:
        by_stage = {"load": predicted_footprint.load_mib, "first pass": predicted_footprint.first_pass_mib,
                    "prefill": predicted_footprint.prefill_mib, "decode": predicted_footprint.decode_mib}  # fmt: skip
    row["predicted_mib"] = row["error"] = None
    if stage in by_stage:
        row["predicted_mib"] = round(by_stage[stage], 1)
        if median(peaks) > 0:
            row["error"] = f"{by_stage[stage] / median(peaks) - 1:+.1%}"
    row["rss_mib"] = round(median(figure["peak_rss_mib"] for figure in figures), 1)
    return row
