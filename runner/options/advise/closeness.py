"""How close a candidate is to a reference: the KL that a finished likelihood job of it has
recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runner.config.root import RunnerConfig
from runner.estimates.recorded import FinishedJobs
from runner.tasks.likelihood.reference import KEY
from runner.tasks.named_job import MODEL_GROUPS, SCORING, overridden
from runner_base import ConfigError, Record

JOB_ID = re.compile(r"likelihood-[0-9a-f]{12}")
KL = "kl_nats_per_token"
# may differ: how much of the distributions was compared
HOW_EXACT = ("task.keep_top_k", "task.exact")


@dataclass(frozen=True)
class RecordedCloseness:
    """A KL with its interval, what it is to, and what else the KLs of two candidates must share to
    be compared."""

    job_id: str
    kl: float
    low: float | None  # None: of too few texts for an interval
    high: float | None
    reference: str
    texts: int
    asked: tuple[tuple[str, str], ...]  # the keys of the task
    overrides: str = ""  # that make the reference of the candidate, where no job was the reference
    reference_job: str = ""  # the id of the job that was
    is_reference: bool = False  # of the reference itself, to which another candidate's KL is

    def of_reference(self) -> RecordedCloseness:
        """Return the closeness of the reference to itself, beside this one."""
        return replace(self, kl=0.0, low=0.0, high=0.0, is_reference=True)

    def is_comparable(self, other: RecordedCloseness) -> bool:
        """Whether both are of the same texts and to the same reference."""
        return (self.reference, self.texts, self.asked) == (other.reference, other.texts, other.asked)

    def is_closer(self, other: RecordedCloseness) -> bool:
        """Whether the two intervals show it: they do not overlap. The reference is closer to itself
        than all others."""
        if not self.is_comparable(other):
            return False
        if self.is_reference:
            return other.kl > 0
        return self.high is not None and other.low is not None and self.high < other.low


def recorded_closeness(config: RunnerConfig, finished: FinishedJobs) -> RecordedCloseness | None:
    """Return the KL of the newest likelihood job with a config's model and settings; None if there
    is none."""
    found = [
        (record.started_at, closeness) for record in finished.like(config) for closeness in _read(record)
    ]
    return max(found, key=lambda dated: dated[0])[1] if found else None


def is_reference(
    config: RunnerConfig, of: RunnerConfig, closeness: RecordedCloseness, finished: FinishedJobs
) -> bool:
    """Whether a config has the model that the KL of another one was measured to."""
    if closeness.reference_job:
        return any(record.job_id == closeness.reference_job for record in finished.like(config))
    try:
        named = overridden(of, KEY, closeness.overrides, SCORING)
    except ConfigError:  # a choice of another version, or of a package that is not here
        return False
    is_same_cache = named.generation.kv_cache == config.generation.kv_cache
    return is_same_cache and all(getattr(named, group) == getattr(config, group) for group in MODEL_GROUPS)


def _read(record: Record) -> Iterator[RecordedCloseness]:
    metrics, reference = record.result.metrics, record.result.facts.get("reference")
    if reference is None or KL not in metrics:
        return
    asked = sorted(
        param for param in record.params.items() if param[0].startswith("task.") and param[0] not in HOW_EXACT
    )
    overrides, _, how = reference.partition(" · ")
    shown = overrides.removeprefix("model.name=").removesuffix(" quantization=gguf")
    yield RecordedCloseness(
        record.job_id,
        metrics[KL],
        metrics.get(f"{KL}_low"),
        metrics.get(f"{KL}_high"),
        shown,
        int(metrics.get("n", 0)),
        tuple(asked),
        overrides,
        how if JOB_ID.fullmatch(how) else "",
    )
