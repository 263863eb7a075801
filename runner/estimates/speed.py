"""How long passes of a model take on a machine, and what a job's completions come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil

from runner.config.task import Amount

Points = list[tuple[float, float]]  # how many, and the seconds that a pass of so many takes; by size


class EstimateBasis(StrEnum):
    """What an estimate rests on, the best first."""

    recorded = "recorded"  # jobs like it that this machine has done
    calibrated = "calibrated"  # some of the model's layers, timed on this machine
    guessed = "guessed"  # what the processor is said to do


@dataclass
class Speed:
    """How long one model takes on one machine."""

    prefill: Points  # by tokens that one pass reads
    decode: Points  # by rows that one step decodes, with little context
    place_s: float = 0.0  # more, for each place of context of each row of a step
    load_s: float = 0.0
    import_s: float = 0.0  # of the libraries, once a process
    limits_s: float = 0.0  # of measuring once what the machine can do at most
    pass_tokens: int = 1024  # prompt tokens that one pass reads at most
    source: EstimateBasis = EstimateBasis.guessed
    spread: float = 0.5  # how far the truth may lie off, as a share

    def seconds(self, amount: Amount, rows: int) -> float:
        """Return the seconds of some completions, so many rows at once."""
        rows = max(1, min(rows, amount.completions))
        waves, rest = divmod(amount.completions, rows)
        return waves * self._wave(amount, rows) + (self._wave(amount, rest) if rest else 0.0)

    def _wave(self, amount: Amount, rows: int) -> float:
        """Return the seconds of rows that begin and end together."""
        tokens = rows * amount.prompt_tokens
        passes = ceil(tokens / self.pass_tokens)
        steps, places = amount.new_tokens - 1, rows * (amount.prompt_tokens + amount.new_tokens / 2)
        return passes * between(self.prefill, tokens / passes) + steps * (
            between(self.decode, rows) + places * self.place_s
        )


@dataclass
class Estimate:
    """How long a job will take, loading included, and what that rests on."""

    seconds: float
    spread: float
    source: EstimateBasis
    most: bool = False  # answers may end earlier than they are allowed to
    notes: list[str] = field(default_factory=list)


def between(points: Points, size: float) -> float:
    """Return the time for a size: on the line between the two points around it, or on that of the last two."""
    if len(points) == 1 or size <= points[0][0]:
        return points[0][1]
    at = next((number for number, (known, _) in enumerate(points) if known >= size), len(points) - 1)
    (less, less_s), (more, more_s) = points[at - 1], points[at]
    return max(less_s + (more_s - less_s) * (size - less) / (more - less), min(less_s, more_s))
