"""Estimates times from the newest finished jobs in output_dir on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from heapq import nlargest
from itertools import islice
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from runner.config.groups import GROUPS
from runner.config.root import RunnerConfig
from runner.config.task import RequestedCompletions
from runner.estimates.amounts import estimate_requested_completions
from runner.estimates.context_costs import (
    NOTHING,
    LengthCosts,
    apply_recorded_sizes_to_task,
    estimate_decode_step_time_ratio,
    estimate_prefill_time_ratios,
)
from runner.estimates.speed import Estimate, EstimateBasis
from runner.records.flat_config import flatten_config, format_config_value
from runner_base import Record, Status, machine
from runner_compare import estimate_answer_times
from runner_engine import RopeConfig
from runner_engine.checkpoints import MAX_ROWS

BASE = ("model.", "quantization.", "lora.", "rope.")  # keys that must agree
INERT = ("model.check_memory", "model.cache_dir", "model.revision", "model.shape")
ROPE = "rope."
ROUNDS = ("repeats", "warmup")  # may differ between measurements
# Keys that decide how long prompts and answers are, and how many decode together
ALIKE = (
    *("generation.batch_size", "generation.max_new_tokens", "generation.thinking_tokens"),
    *(
        f"task.{key}"
        for key in ("name", "data", "prompt", "shots", "window", "exact", "kinds", "needles", "values")
    ),
)
LOADS_TWO = "task.exact"
GUESSES = "generation.speculate"
NO_GUESSES = ("auto", "off")  # which guess only while that saves time: one speed
SPREAD = 0.2  # relative uncertainty of similar jobs, unless several differ by more
SPREAD_BESIDE = 0.5  # of those that ran beside other work
NEWEST = 2000  # jobs that are read
MOST_TIMES = 20  # similar jobs whose times count
MOST_ROWS = MAX_ROWS["cpu"]  # at once, where the engine decides


class FinishedJobs:
    """The newest finished jobs in an output folder that ran on this machine."""

    def __init__(self, output_dir: Path) -> None:
        self._jobs = output_dir / "jobs"
        newest = nlargest(NEWEST, _list_folders(self._jobs), key=lambda folder: folder.stat().st_mtime_ns)
        self.records = [
            record for folder in newest if (record := _read_local_record(Path(folder.path, "result.json")))
        ]
        self._bases: dict[Callable[..., Any], list[frozenset[Any]]] = {}

    def job_folder(self, record: Record) -> Path:
        """Return the folder of a recorded job, even if the output folder has been moved since."""
        return self._jobs / record.job_id

    def same_base_records(self, config: RunnerConfig) -> list[Record]:
        return self._find_records_with_same_params(_base_model_params, config)

    def _find_records_with_same_params(
        self, extract_params: Callable[[Mapping[str, Any]], dict[str, Any]], config: RunnerConfig
    ) -> list[Record]:
        if extract_params not in self._bases:  # few differ
            self._bases[extract_params] = [
                frozenset(extract_params(record.params).items()) for record in self.records
            ]
        wanted, defaults, bases = (
            extract_params(dict(flatten_config(config))),
            extract_params(dict(_iterate_default_values(config))),
            self._bases[extract_params],
        )
        alike = {base for base in {*bases} if defaults | dict(base) == wanted}
        return [record for record, base in zip(self.records, bases, strict=True) if base in alike]

    def find_records_of_similar_jobs(self, config: RunnerConfig) -> list[Record]:
        """Return the records of jobs with the same model speed, amount of work and batch size."""
        params, defaults = dict(flatten_config(config)), dict(_iterate_default_values(config))
        wanted = _build_job_similarity_key(params)
        return [
            record
            for record in self._find_records_with_same_params(_select_speed_relevant_params, config)
            if _build_job_similarity_key(defaults | record.params) == wanted
        ]

    def find_max_recorded_peak_mib(self, config: RunnerConfig) -> float | None:
        """Return the largest peak memory in MiB of similar jobs. None without similar jobs."""
        found = [record.result.metrics for record in self.find_records_of_similar_jobs(config)]
        return max((metrics["peak_rss_mib"] for metrics in found if "peak_rss_mib" in metrics), default=None)

    def estimate_time_from_records(
        self, config: RunnerConfig, num_questions: int | None = None, length_costs: LengthCosts = NOTHING
    ) -> Estimate | None:
        """Return a job's time, estimated from the newest similar jobs. None without similar jobs.

        `length_costs` are those of the model; they scale times between shorter and longer prompts.
        """
        amounts = estimate_requested_completions(config, num_questions)
        similar = self.find_records_of_similar_jobs(config)
        found = (
            (record, times)
            for record in similar
            if (times := _estimate_time_range_s(record, config, amounts, length_costs))
        )
        if not (newest := [*islice(found, MOST_TIMES)]):
            return None
        ranges = [times for _, times in newest]
        is_beside = any(machine.BESIDE in record.result.facts.get("measured", "") for record, _ in newest)
        spread = SPREAD_BESIDE if is_beside else SPREAD
        seconds = median((least + most) / 2 for least, most in ranges)
        apart = max(most for _, most in ranges) - min(least for least, _ in ranges)
        return Estimate(seconds, max(spread, apart / (2 * seconds)), EstimateBasis.recorded)


def _list_folders(jobs_folder: Path) -> list[os.DirEntry[str]]:
    if not jobs_folder.is_dir():
        return []
    with os.scandir(jobs_folder) as entries:
        return [entry for entry in entries if entry.is_dir()]


def _read_local_record(record_file: Path) -> Record | None:
    """Return the record in a file if its job finished on this machine, otherwise None."""
    try:
        record = Record.from_json(record_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    here = machine.describe_hardware()
    return (
        record
        if record.status is Status.FINISHED and record.result.facts.get("machine", here) == here
        else None
    )


def fill_missing_params(params: Mapping[str, str], config: RunnerConfig) -> dict[str, str]:
    """Return a record's params. Keys that are newer than the record get their defaults."""
    return {**dict(_iterate_default_values(config)), **params}


def _iterate_default_values(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the full name of each config key that has a default, with the default as text."""
    assert is_dataclass(config)
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from _iterate_default_values(value, f"{prefix}{item.name}.")
        elif item.default is not MISSING:
            yield f"{prefix}{item.name}", format_config_value(item.default)
        elif item.default_factory is not MISSING:
            yield f"{prefix}{item.name}", format_config_value(item.default_factory())


def _base_model_params(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key.startswith(BASE) and key not in INERT}


def _select_speed_relevant_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params on which a model's speed depends. A RoPE scaling does not change the speed."""
    base = {key: value for key, value in _base_model_params(params).items() if not key.startswith(ROPE)}
    rope = params.get(f"{ROPE}name")
    is_scaled = getattr(GROUPS["rope"].get(rope or ""), "is_scaling", False)
    return base | {f"{ROPE}name": RopeConfig.name if is_scaled else rope}


def _build_job_similarity_key(params: Mapping[str, Any]) -> list[Any]:
    values = {key: params.get(key) for key in ALIKE}
    values |= {LOADS_TWO: values[LOADS_TWO] == "true", GUESSES: params.get(GUESSES)}
    if values[GUESSES] in NO_GUESSES:
        values[GUESSES] = None
    return [*values.values()]


def _estimate_time_range_s(
    record: Record, config: RunnerConfig, amounts: list[RequestedCompletions], length_costs: LengthCosts
) -> tuple[float, float] | None:
    metrics = record.result.metrics
    if not amounts:
        return None
    if all(amount.is_exact for amount in amounts):
        rounds = {key: record.params.get(f"task.{key}") for key in ROUNDS if hasattr(config.task, key)}
        if not all(isinstance(value, str) and value.isdecimal() for value in rounds.values()):
            return None
        round_counts: dict[str, Any] = {key: int(str(value)) for key, value in rounds.items()}
        task = replace(config.task, **round_counts)
        recorded = fill_missing_params(record.params, config)
        if any(recorded.get(key) != value for key, value in flatten_config(task, "task.")):
            return None
        load_s = metrics.get("load_s", 0.0)
        share = _count_completions(amounts) / _count_completions(
            task.list_requested_completions(config.generation)
        )
        seconds = load_s + share * max(record.seconds - load_s, 0.0)
        return seconds, seconds
    if (times := estimate_answer_times(metrics)) is None:
        return None
    # once, however many are asked
    beside_s = max(record.seconds - times.total_seconds, float(metrics.get("load_s", 0.0)))
    if (then := _get_recorded_completions(record, config, amounts, round(times.n))) is None:
        return None
    completions, of_record = _count_completions(amounts), _count_completions(then) or round(times.n)
    more = completions / of_record
    rows_then, rows = (
        min(count, max(amount.rows or MOST_ROWS for amount in amounts)) for count in (of_record, completions)
    )
    # With as many rows as then, each step takes as long. With others it takes more, or less, but
    # not in proportion.
    steps = ceil(completions / rows) / ceil(of_record / rows_then) if rows != rows_then else more
    ends = [steps * times.decode_s, more * times.decode_s]
    prompts = [times.beginnings_s + more * times.prompts_s]
    if then:
        prompts = [
            share * (times.beginnings_s + times.prompts_s)
            for share in estimate_prefill_time_ratios(amounts, then, length_costs)
        ]
        # less where rows share the keys that they read
        longer = estimate_decode_step_time_ratio(amounts, then, rows, length_costs)
        ends += [longer * end for end in ends]
    return beside_s + min(prompts) + min(ends), beside_s + max(prompts) + max(ends)


def _get_recorded_completions(
    record: Record, config: RunnerConfig, amounts: list[RequestedCompletions], num_questions: int
) -> list[RequestedCompletions] | None:
    """Return the completions of a recorded job.

    The list is empty if the prompt lengths of both jobs are unknown, as with word problems. The
    result is None if only one job's prompt lengths are known.
    """
    task = apply_recorded_sizes_to_task(config.task, record)
    if task is None:
        return None
    then = task.list_requested_completions(config.generation, num_questions)
    known = [all(amount.counts_tokens for amount in some) for some in (amounts, then)]
    if known[0] is not known[1]:
        return None
    return then if known[0] else []


def _count_completions(amounts: list[RequestedCompletions]) -> int:
    return sum(amount.completions for amount in amounts)
