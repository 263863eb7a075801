"""Defines the speed of a model on a machine, and computes how long a job's completions take at this speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil

from runner.config.task import RequestedCompletions
from runner_base.notes import Note

SizeTimePoints = list[tuple[float, float]]  # a pass's tokens or rows, and its seconds; sorted by size


class EstimateBasis(StrEnum):
    """Source of a time estimate, from the most to the least reliable."""

    answered = "answered"  # every answer is on disk, and nothing will be decoded
    recorded = "recorded"  # from similar jobs on this machine
    calibrated = "calibrated"  # from some of the model's layers, timed on this machine
    guessed = "guessed"  # from the processor's data sheet


@dataclass
class Speed:
    """Speed of one model on one machine: seconds of prefill, decode and loading."""

    prefill: SizeTimePoints  # by tokens of a pass
    decode: SizeTimePoints  # by rows of a step, with little context
    place_s: float = 0.0  # additional, for each position of context of each row of a step
    pair_s: float = 0.0  # additional, for each pair of a prompt's token and one before it
    load_s: float = 0.0
    merge_s: float = 0.0  # of merging an adapter into the weights, once for each load
    import_s: float = 0.0  # of the libraries, once per process
    limits_s: float = 0.0  # of measuring the machine's limits once
    pass_tokens: int = 1024  # the most prompt tokens of a pass
    source: EstimateBasis = EstimateBasis.guessed
    spread: float = 0.5  # relative uncertainty
    without_guesses: Speed | None = None  # where tokens are guessed at every step: none guessed

    @property
    def seconds_per_token(self) -> float:
        """Seconds per token in the largest measured prefill pass."""
        tokens, seconds = self.prefill[-1]
        return seconds / tokens

    def estimate_seconds(self, amount: RequestedCompletions, batch_size: int) -> float:
        if self.without_guesses is not None and not amount.is_guessed:
            return self.without_guesses.estimate_seconds(amount, batch_size)
        batch_size = max(1, min(batch_size, amount.completions))
        waves, rest = divmod(amount.completions, batch_size)
        waves_s = waves * self._estimate_batch_seconds(amount, batch_size) + (
            self._estimate_batch_seconds(amount, rest) if rest else 0.0
        )
        return (
            self._estimate_prefill_seconds(amount.shared_tokens)
            + waves_s
            + amount.num_attention_pairs * self.pair_s
        )

    def _estimate_batch_seconds(self, amount: RequestedCompletions, batch_size: int) -> float:
        step_s = (
            interpolate_time(self.decode, batch_size) + batch_size * amount.mean_context_tokens * self.place_s
        )
        return (
            self._estimate_prefill_seconds(batch_size * amount.prompt_tokens)
            + (amount.new_tokens - 1) * step_s
        )

    def _estimate_prefill_seconds(self, num_tokens: int) -> float:
        """Return the seconds to prefill `num_tokens` tokens in as few passes as possible."""
        passes = ceil(num_tokens / self.pass_tokens)
        return passes * interpolate_time(self.prefill, num_tokens / passes) if passes else 0.0


@dataclass
class Estimate:
    """A job's estimated time in seconds, including loading, and the basis of the estimate."""

    seconds: float
    spread: float
    source: EstimateBasis
    is_upper_bound: bool = False  # answers may end before their maximum length
    notes: list[Note] = field(default_factory=list)
    # the least and the most of what is not known yet, each with its own uncertainty
    ends: tuple[Estimate, Estimate] | None = None

    @property
    def is_only_bounded(self) -> bool:
        """Whether only an upper bound is known, because no finished job shows how long answers are."""
        return self.is_upper_bound and self.source is not EstimateBasis.recorded


def interpolate_time(points: SizeTimePoints, size: float) -> float:
    """Interpolate the time for a size linearly between measured sizes. Larger sizes are extrapolated."""
    if len(points) == 1 or size <= points[0][0]:
        return points[0][1]
    at = next((number for number, (known, _) in enumerate(points) if known >= size), len(points) - 1)
    (less, less_s), (more, more_s) = points[at - 1], points[at]
    return max(less_s + (more_s - less_s) * (size - less) / (more - less), min(less_s, more_s))
