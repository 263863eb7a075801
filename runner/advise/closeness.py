"""How close a candidate is to a reference: the KL that a finished likelihood job of it has recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.core.result import Record
from runner.estimates.recorded import FinishedJobs

KL = "kl_nats_per_token"
ENDS = (KL, f"{KL}_low", f"{KL}_high")
HOW_EXACT = "task.keep_top_k"  # may differ: how much of the distributions was kept


@dataclass(frozen=True)
class RecordedCloseness:
    """A KL with its interval, what it is to, and what else the KLs of two candidates must share to be compared."""

    job_id: str
    kl: float
    low: float
    high: float
    reference: str
    texts: int
    asked: tuple[tuple[str, str], ...]  # the keys of the task

    @property
    def words(self) -> str:
        """The KL with its interval: KL 0.00048 [0.0003, 0.0006] nats/token to REFERENCE."""
        return f"KL {self.kl:.2g} [{self.low:.2g}, {self.high:.2g}] nats/token to {self.reference}"

    def is_comparable(self, other: RecordedCloseness) -> bool:
        """Whether both are of the same texts and to the same reference."""
        return (self.reference, self.texts, self.asked) == (other.reference, other.texts, other.asked)

    def is_closer(self, other: RecordedCloseness) -> bool:
        """Whether the two intervals show it: they do not overlap."""
        return self.is_comparable(other) and self.high < other.low


def recorded_closeness(config: RunnerConfig, finished: FinishedJobs) -> RecordedCloseness | None:
    """Return the KL of the newest likelihood job with a config's model and settings; None if there is none."""
    found = [(record.started_at, one) for record in finished.like(config) for one in _read(record)]
    return max(found, key=lambda it: it[0])[1] if found else None


def _read(record: Record) -> Iterator[RecordedCloseness]:
    metrics, reference = record.result.metrics, record.result.facts.get("reference")
    if reference is None or not all(name in metrics for name in ENDS):
        return
    asked = sorted(it for it in record.params.items() if it[0].startswith("task.") and it[0] != HOW_EXACT)
    kl, low, high = (metrics[name] for name in ENDS)
    words = reference.split(" · ")[0].removeprefix("model.name=").removesuffix(" quantization=gguf")
    yield RecordedCloseness(record.job_id, kl, low, high, words, int(metrics.get("n", 0)), tuple(asked))
