"""Memory of import, load, prefill and decode, each repeat in a fresh process, predicted next to measured.

The parent never asks for an engine, so it never imports torch: what the probe measures starts from nothing.
"""

from __future__ import annotations

import json
import subprocess
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from runner.checkpoints.footprint import Footprint
from runner.config.measures import MemoryConfig
from runner.config.root import RunnerConfig
from runner.core import child, errors
from runner.core.errors import JobFailed
from runner.core.progress import Progress
from runner.core.result import RepeatLog, Result
from runner.engines.base import Capability, require_among
from runner.engines.kinds import kind_of
from runner.tasks.base import Context, Inputs, Uses

VERSION = 1
USES = frozenset({Uses.weights, Uses.machine, Uses.fresh_process})
FROM_LEDGER = True

PROBE = "runner.tasks.memory_probe"
STAGES = ("import", "load", "prefill", "decode")
SPREAD = ("peak_rss_mib", "steady_rss_mib", "load_peak_rss_mib", "load_s", "decode_tok_per_s", "cuda_peak_mib")

Run = dict[str, Any]  # one fresh process: stage -> figures, and metrics, facts, notes


def prepare(config: RunnerConfig) -> Inputs:  # noqa: ARG001
    """Read nothing but the model, which the job's identity holds already."""
    return Inputs({})


def run(inputs: Inputs, context: Context) -> Result:  # noqa: ARG001
    """Predict, then measure in `repeats` fresh processes."""
    config, recorder = context.config, context.recorder
    task = config.task
    assert isinstance(task, MemoryConfig)
    kind = kind_of(config.model)
    needs = (Capability.token_ids, Capability.fixed_length, Capability.own_memory)
    require_among(kind.capabilities(config), "task=memory", needs)
    predicted = kind.predict(config, context.resolved, task.workload(config.generation))
    runs: list[Run] = []
    measured: list[dict[str, float]] = []
    repeats = RepeatLog(recorder.folder)
    with recorder.progress(task.repeats * len(STAGES), "memory") as bar:
        for number in range(1, task.repeats + 1):
            log = recorder.folder / "memory_probe.log"
            runs.append(run_probe(config, log, f"repeat {number} of {task.repeats}", bar))
            measured.append(_run_metrics(runs[-1]))
            repeats.add(number, measured[-1])
    return summarize(runs, measured, predicted)


def run_probe(config: RunnerConfig, log: Path, which: str, bar: Progress) -> Run:
    """Measure once in a fresh process; what it prints goes to log."""
    run: Run = {"figures": {}}
    stage = "start"
    with log.open("a", encoding="utf-8") as stderr:
        offset = stderr.tell()
        process = child.start("-m", PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    with process:
        try:
            assert process.stdout is not None
            child.send_input(process, config)
            for line in process.stdout:
                event = json.loads(line)
                if "begin" in event:
                    stage = event["begin"]
                    bar.describe(f"memory: {stage}, {which}")
                elif "stage" in event:
                    run["figures"][event["stage"]] = event["figures"]
                    run["peak_since_start"] = event["peak_since_start"]
                    bar.advance(1)
                elif "error" in event:
                    raise getattr(errors, event["error"], JobFailed)(event["message"])
                else:
                    run |= event
            code = process.wait()
        finally:
            process.kill()  # Ctrl-C here must not leave a model loaded there
            process.wait()
    if code != 0 or "metrics" not in run:
        lines = child.last_lines(log, 8, offset)
        said = f"Its last lines, in {log}:\n" + "\n".join(lines) if lines else f"It said nothing; log: {log}"
        raise JobFailed(f"the memory probe, {which}, {child.describe_exit(code)}, in stage {stage}. {said}")
    return run


def summarize(runs: list[Run], measured: list[dict[str, float]], predicted: Footprint | None) -> Result:
    """Put medians, spreads and predictions together."""
    metrics = {key: median(values[key] for values in measured) for key in measured[0]}
    for key in SPREAD:
        if key in metrics:
            metrics[f"{key}_min"] = min(values[key] for values in measured)
            metrics[f"{key}_max"] = max(values[key] for values in measured)
    metrics["repeats"] = len(runs)
    notes = list(dict.fromkeys(note for run in runs for note in run["notes"]))
    if predicted is None:
        notes.append("no prediction: the checkpoint has no safetensors files, whose headers it is read from")
    else:
        metrics |= _predictions(metrics, predicted)
    if any(run["peak_since_start"] for run in runs):
        notes.append("this system cannot reset the high-water mark: peaks count from the start of the process")
    mapped_mib = metrics["mapped_files_mib"]
    if mapped_mib > max(1.0, 0.1 * metrics["weight_mib"]):
        notes.append(
            f"{mapped_mib:.0f} MiB of resident memory are pages of mapped files, above all the checkpoint: "
            "they come in on first use, and the kernel can drop them when memory is short"
        )
    return Result(metrics, _rows(runs, predicted), dict(runs[0]["facts"]), notes)


def _run_metrics(run: Run) -> dict[str, float]:
    """Flatten one run into metrics: the engine's report and the figures of the stages."""
    figures: dict[str, dict[str, float]] = run["figures"]
    start, end = figures["import"], figures["decode"]
    baseline_mib = start["steady_rss_mib"]
    peak_mib = max(figures[stage]["peak_rss_mib"] for stage in STAGES)
    metrics = dict(run["metrics"])
    metrics |= {
        "import_s": start["seconds"],
        "peak_rss_mib": peak_mib,
        "steady_rss_mib": end["steady_rss_mib"],
        "pss_mib": end["pss_mib"],
        "mapped_files_mib": end["pss_file_mib"] - start["pss_file_mib"],
        "baseline_mib": baseline_mib,
        "baseline_anon_mib": start["steady_anon_mib"],
        "peak_over_baseline_mib": peak_mib - baseline_mib,
    }
    for stage, key in product(STAGES[1:], ("peak_anon_mib", "steady_anon_mib", "peak_rss_mib", "steady_rss_mib")):
        metrics[f"{stage}_{key}"] = figures[stage][key]
    if "cuda_peak_mib" in end:
        for key in ("cuda_peak_mib", "cuda_reserved_mib"):
            metrics[key] = max(figures[stage].get(key, 0.0) for stage in STAGES)
        metrics["cuda_steady_mib"] = end["cuda_steady_mib"]
    return metrics


def _predictions(metrics: dict[str, float], predicted: Footprint) -> dict[str, float]:
    """Return the predictions, their relative errors, and the part of the peak that is neither weights nor KV cache."""
    held_mib = metrics.get("cuda_peak_mib", metrics["peak_over_baseline_mib"])  # where the weights are
    values = {
        "predicted_weight_mib": predicted.weight_mib,
        "predicted_activation_mib": predicted.activation_mib,
        "predicted_total_mib": predicted.total_mib,
        "kv_cache_mib": predicted.kv_cache_mib,  # arithmetic: the cache is gone when a stage ends
        "rest_mib": held_mib - metrics["weight_mib"] - predicted.kv_cache_mib,
    }
    if metrics["weight_mib"]:
        values["weight_prediction_error"] = predicted.weight_mib / metrics["weight_mib"] - 1
        values["total_prediction_error"] = predicted.total_mib / held_mib - 1 if held_mib > 0 else 0.0
    return values


def _rows(runs: list[Run], predicted: Footprint | None) -> list[dict[str, Any]]:
    """Return one row per stage: medians over the repeats, and the peak's spread."""
    predictions: dict[str, float] = {}
    if predicted is not None:
        predictions = {"load": predicted.weight_mib, "prefill": predicted.prefill_mib}
        predictions["decode"] = predicted.total_mib  # that stage reads the prompts once more
    rows: list[dict[str, Any]] = []
    for stage in STAGES:
        figures = [run["figures"][stage] for run in runs]
        peaks = [values["peak_rss_mib"] for values in figures]
        # over what the interpreter and its libraries hold
        over = [peak - run["figures"]["import"]["steady_rss_mib"] for peak, run in zip(peaks, runs, strict=True)]
        row: dict[str, Any] = {
            "stage": stage,
            "seconds": round(median(values["seconds"] for values in figures), 2),
            "peak_rss_mib": round(median(peaks), 1),
            "peak_spread": f"{min(peaks):.1f}–{max(peaks):.1f}",
            "steady_rss_mib": round(median(values["steady_rss_mib"] for values in figures), 1),
            "pss_mib": round(median(values["pss_mib"] for values in figures), 1),
            "peak_over_import_mib": round(median(over), 1),
        }
        if "cuda_peak_mib" in runs[0]["figures"]["decode"]:
            for key in ("cuda_peak_mib", "cuda_reserved_mib"):
                row[key] = round(median(values.get(key, 0.0) for values in figures), 1)
        row["predicted_mib"] = round(predictions[stage], 1) if stage in predictions else None
        rows.append(row)
    return rows
