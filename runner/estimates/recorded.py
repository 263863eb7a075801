"""The newest finished jobs of output_dir that ran on this machine, and the times of similar ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from heapq import nlargest
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from runner.config.root import RunnerConfig
from runner.config.task import Amount
from runner.core import machine
from runner.core.result import Record, Status
from runner.estimates.amounts import amounts_of
from runner.estimates.speed import Estimate, EstimateBasis
from runner.store.tracking import flatten, text_of

BASE = ("model.", "quantization.", "lora.", "rope.")  # keys that must agree
INERT = ("model.check_memory", "model.cache_dir", "model.revision", "model.shape")
ROUNDS = ("repeats", "warmup")  # may differ between measurements
ALIKE = ("generation.batch_size", "generation.max_new_tokens", "task.name")
SPREAD = 0.2  # relative uncertainty of similar jobs, unless several differ by more
NEWEST = 2000  # jobs that are read
MOST_TIMES = 20  # similar jobs whose times count


class FinishedJobs:
    """The newest finished jobs of an output folder that ran on this machine; more would only make a plan slow."""

    def __init__(self, output_dir: Path) -> None:
        self._jobs = output_dir / "jobs"
        newest = nlargest(NEWEST, _folders(self._jobs), key=lambda it: it.stat().st_mtime_ns)
        self.records = [record for folder in newest if (record := _read(Path(folder.path, "result.json")))]
        self._bases = [frozenset(_base(record.params).items()) for record in self.records]  # few differ

    def folder(self, record: Record) -> Path:
        """Return a job's folder, also if the output folder was moved."""
        return self._jobs / record.job_id

    def like(self, config: RunnerConfig) -> list[Record]:
        """Return the records with the same base, the newest first."""
        wanted, defaults = _base(dict(flatten(config))), _base(dict(_defaults(config)))
        alike = {base for base in {*self._bases} if defaults | dict(base) == wanted}
        return [record for record, base in zip(self.records, self._bases, strict=True) if base in alike]

    def similar(self, config: RunnerConfig) -> list[Record]:
        """Return the records with the same base that did the same work in batches of the same size."""
        params = dict(flatten(config))
        return [it for it in self.like(config) if all(it.params.get(key) == params.get(key) for key in ALIKE)]

    def peak_mib(self, config: RunnerConfig) -> float | None:
        """Return the largest peak of the process in similar jobs; None if there is none."""
        found = [it.result.metrics for it in self.similar(config)]
        return max((metrics["peak_rss_mib"] for metrics in found if "peak_rss_mib" in metrics), default=None)

    def estimate(self, config: RunnerConfig, read: int | None = None) -> Estimate | None:
        """Return a job's time from the newest similar jobs; None if there is none."""
        amounts = amounts_of(config, read)
        found = (seconds for record in self.similar(config) if (seconds := _seconds(record, config, amounts)))
        if not (times := [*islice(found, MOST_TIMES)]):
            return None
        seconds = median(times)
        return Estimate(seconds, max(SPREAD, (max(times) - min(times)) / (2 * seconds)), EstimateBasis.recorded)


def _folders(jobs: Path) -> list[os.DirEntry[str]]:
    """Return the folders of all jobs."""
    if not jobs.is_dir():
        return []
    with os.scandir(jobs) as entries:
        return [it for it in entries if it.is_dir()]


def _read(file: Path) -> Record | None:
    """Return a finished record of this machine; None for any other or unreadable one."""
    try:
        record = Record.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    here = machine.name()
    return record if record.status is Status.FINISHED and record.result.facts.get("machine", here) == here else None


def with_defaults(params: Mapping[str, str], config: RunnerConfig) -> dict[str, str]:
    """Return a record's keys and values with the default of each key that its version did not have yet."""
    return {**dict(_defaults(config)), **params}


def _defaults(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key that has a default of its own in the classes of a config, with this default."""
    assert is_dataclass(config)
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from _defaults(value, f"{prefix}{item.name}.")
        elif item.default is not MISSING:
            yield f"{prefix}{item.name}", text_of(item.default)
        elif item.default_factory is not MISSING:
            yield f"{prefix}{item.name}", text_of(item.default_factory())


def _base(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key.startswith(BASE) and key not in INERT}


def _seconds(record: Record, config: RunnerConfig, amounts: list[Amount]) -> float | None:
    """Return the job's time at the record's speed; None if the two are not similar enough."""
    metrics = record.result.metrics
    if not amounts:
        return None
    if all(amount.is_exact for amount in amounts):
        rounds = {key: record.params.get(f"task.{key}") for key in ROUNDS if hasattr(config.task, key)}
        if not all(isinstance(value, str) and value.isdecimal() for value in rounds.values()):
            return None
        round_counts: dict[str, Any] = {key: int(str(value)) for key, value in rounds.items()}
        task = replace(config.task, **round_counts)
        recorded = with_defaults(record.params, config)
        if any(recorded.get(key) != value for key, value in flatten(task, "task.")):
            return None
        load_s = metrics.get("load_s", 0.0)
        share = _completions(amounts) / _completions(task.amounts(config.generation))
        return load_s + share * max(record.seconds - load_s, 0.0)
    n, speeds = (
        metrics.get("calls", metrics.get("n_all", metrics.get("n"))),  # a team's question takes several completions
        (metrics.get("prefill_tok_per_s"), metrics.get("decode_tok_per_s")),
    )
    if not n or not all(speeds):  # it may have reused other jobs' answers
        return None
    tokens_and_speeds = zip((metrics["prompt_tokens"], metrics["new_tokens"]), speeds, strict=True)
    each_s = sum(tokens / speed for tokens, speed in tokens_and_speeds if speed) / n
    return float(metrics.get("load_s", 0.0) + each_s * _completions(amounts))


def _completions(amounts: list[Amount]) -> int:
    return sum(amount.completions for amount in amounts)
