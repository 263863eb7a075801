"""Whether guessed tokens pay for a candidate: what finished sweeps with its model have measured, by
turns with none (docs/speculation.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.estimates.recorded import FinishedJobs
from runner.speed.by_turns import GAIN
from runner_base import Record

GUESSES = "generation.speculate"
CELL = "/batch_"  # with the rows behind it, in the names of a cell's metrics


@dataclass(frozen=True)
class RecordedGain:
    """How many times as fast decoding was with guesses as without, at so many rows."""

    speculate: str
    rows: int
    gain: float
    low: float
    high: float
    job_id: str

    @property
    def pays(self) -> bool | None:
        """Whether decoding was shown to be faster with guesses, or slower; None: neither."""
        return True if self.low > 1 else False if self.high < 1 else None


def recorded_gains(config: RunnerConfig, finished: FinishedJobs) -> list[RecordedGain]:
    """Return what the newest sweep of each kind of guesses has measured with a config's model, by
    rows. Gains without an interval and those of random tokens say too little."""
    newest: dict[str, Record] = {}
    for record in sorted(finished.like(config), key=lambda record: record.started_at):
        if record.params.get("task.prompts", "null") != "null" and any(_gains(record)):
            newest[record.params[GUESSES]] = record
    found = [gain for record in newest.values() for gain in _gains(record)]
    return sorted(found, key=lambda gain: (gain.speculate, gain.rows))


def _gains(record: Record) -> Iterator[RecordedGain]:
    metrics = record.result.metrics
    for key, low in metrics.items():
        name, _, cell = key.partition(CELL)
        high = metrics.get(f"{GAIN}_high{CELL}{cell}")
        gain = metrics.get(f"{GAIN}{CELL}{cell}")
        rows = cell.partition("_")[0]
        if name == f"{GAIN}_low" and rows.isdecimal() and gain is not None and high is not None:
            yield RecordedGain(record.params.get(GUESSES, ""), int(rows), gain, low, high, record.job_id)
