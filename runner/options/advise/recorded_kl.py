"""Looks up a candidate's KL divergence from its reference model, measured by an earlier likelihood job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runner.config.root import RunnerConfig
from runner.estimates.recorded import FinishedJobs
from runner.tasks.likelihood.reference import KEY
from runner.tasks.named_job import MODEL_GROUPS, SCORING, apply_overrides_from_text
from runner_base import ConfigError, Record

JOB_ID = re.compile(r"likelihood-[0-9a-f]{12}")
KL = "kl_nats_per_token"
# may differ: how much of the distributions was compared
HOW_EXACT = ("task.keep_top_k", "task.exact")


@dataclass(frozen=True)
class RecordedKl:
    """A recorded KL divergence, with its confidence interval, reference model and settings."""

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

    def reference_kl(self) -> RecordedKl:
        return replace(self, kl=0.0, low=0.0, high=0.0, is_reference=True)

    def is_comparable(self, other: RecordedKl) -> bool:
        """Return whether two KL divergences were measured on the same texts against the same reference
        model.
        """
        return (self.reference, self.texts, self.asked) == (other.reference, other.texts, other.asked)

    def is_lower(self, other: RecordedKl) -> bool:
        """Return whether this KL divergence is lower than another one, without overlap of their confidence
        intervals.

        The reference model itself has a KL divergence of 0.
        """
        if not self.is_comparable(other):
            return False
        if self.is_reference:
            return other.kl > 0
        return self.high is not None and other.low is not None and self.high < other.low


def find_recorded_kl(config: RunnerConfig, finished_jobs: FinishedJobs) -> RecordedKl | None:
    """Return the KL divergence that the newest likelihood job measured for this model and these settings, or
    None.
    """
    found = [
        (record.started_at, closeness)
        for record in finished_jobs.same_base_records(config)
        for closeness in _read_kl_divergences(record)
    ]
    return max(found, key=lambda dated: dated[0])[1] if found else None


def is_reference_config(
    config: RunnerConfig, measured_config: RunnerConfig, recorded_kl: RecordedKl, finished_jobs: FinishedJobs
) -> bool:
    """Return whether a config runs the reference model that a recorded KL divergence was measured against.

    The KL divergence was measured with another config.
    """
    if recorded_kl.reference_job:
        return any(
            record.job_id == recorded_kl.reference_job for record in finished_jobs.same_base_records(config)
        )
    try:
        named = apply_overrides_from_text(measured_config, KEY, recorded_kl.overrides, SCORING)
    except ConfigError:  # a choice of another version, or of a package that is not here
        return False
    is_same_cache = named.generation.kv_cache == config.generation.kv_cache
    return is_same_cache and all(getattr(named, group) == getattr(config, group) for group in MODEL_GROUPS)


def _read_kl_divergences(record: Record) -> Iterator[RecordedKl]:
    metrics, reference = record.result.metrics, record.result.facts.get("reference")
    if reference is None or KL not in metrics:
        return
    asked = sorted(
        param for param in record.params.items() if param[0].startswith("task.") and param[0] not in HOW_EXACT
    )
    overrides, _, how = reference.partition(" · ")
    shown = overrides.removeprefix("model.name=").removesuffix(" quantization=gguf")
    yield RecordedKl(
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
