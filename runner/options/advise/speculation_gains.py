"""Looks up recorded speedups of speculative decoding. See docs/speculation.md.

The recorded jobs alternate between runs with and without draft tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.estimates.recorded import FinishedJobs
from runner.speed.speculation_pairs import GAIN
from runner_base import Record

GUESSES = "generation.speculate"
CELL = "/batch_"  # with the rows behind it, in the names of a cell's metrics


@dataclass(frozen=True)
class RecordedSpeedup:
    """Recorded speedup of speculative decoding over ordinary decoding at one batch size."""

    speculate: str
    rows: int
    gain: float
    low: float
    high: float
    job_id: str

    @property
    def is_faster(self) -> bool | None:
        """True if speculative decoding is significantly faster, False if significantly slower, None if
        neither.
        """
        return True if self.low > 1 else False if self.high < 1 else None


def find_recorded_speedups(config: RunnerConfig, finished_jobs: FinishedJobs) -> list[RecordedSpeedup]:
    """Return the newest recorded speedups of speculative decoding for a model, by drafter and batch size.

    Speedups without an interval and those on random tokens are ignored, because they say too
    little.
    """
    newest: dict[str, Record] = {}
    for record in sorted(finished_jobs.same_base_records(config), key=lambda record: record.started_at):
        if record.params.get("task.prompts", "null") != "null" and any(_read_speedups(record)):
            newest[record.params[GUESSES]] = record
    found = [gain for record in newest.values() for gain in _read_speedups(record)]
    return sorted(found, key=lambda gain: (gain.speculate, gain.rows))


def _read_speedups(record: Record) -> Iterator[RecordedSpeedup]:
    metrics = record.result.metrics
    for key, low in metrics.items():
        name, _, cell = key.partition(CELL)
        high = metrics.get(f"{GAIN}_high{CELL}{cell}")
        gain = metrics.get(f"{GAIN}{CELL}{cell}")
        rows = cell.partition("_")[0]
        if name == f"{GAIN}_low" and rows.isdecimal() and gain is not None and high is not None:
            yield RecordedSpeedup(record.params.get(GUESSES, ""), int(rows), gain, low, high, record.job_id)
