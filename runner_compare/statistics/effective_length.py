"""The effective length of recall: the longest length up to which it is kept, with an interval,
found by tests.

At each length the same questions are asked as at the shortest one, and recall is lost where it is
below that of the shortest by more than a margin. The effective length is the last of the lengths
before the first one at which it is lost; nothing is assumed about the form of the curve, so recall
that comes back at a longer length does not count.

The interval has the lengths that no test excludes as the effective one, each end at half of the
error:

- A length is excluded as too short if recall is shown to be kept at the next one (non-inferiority). Where the lengths
  are tested in their order and the first one that is not shown to be kept ends the sequence, each is tested at the
  whole level: to reach too far, the test of the first length at which recall is lost has to be wrong.
- A length is excluded as too long if recall is shown to be lost there, or at a shorter one. Half of the level is for
  the length itself, half is shared by all shorter ones.

Of several settings in one table the intervals hold together, because the reader looks for the longest one: each setting
has its share of the level. A setting that is shown to reach the longest length passes on what its lengths were tested
with, to those that are not (Bretz, Maurer, Brannath and Posch, A graphical approach to sequentially rejective multiple
test procedures, 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner_compare.statistics.effects import Test
from runner_compare.statistics.stats import ALPHA


@dataclass(frozen=True)
class LengthTests:
    """What the tests of one length against the shortest say, each one-sided."""

    p_kept: float  # small: recall is shown to be kept within the margin
    p_lost: float  # small: recall is shown to be lost by more than the margin
    is_kept_as_counted: bool  # whether recall is within the margin, as it was counted


@dataclass(frozen=True)
class EffectiveLength:
    """The effective length among the lengths that were asked, from the shortest to the longest."""

    lengths: tuple[int, ...]
    counted: int  # the place of the longest length that is kept as it was counted, without a test
    reached: int  # the place of the longest length that is shown to be reached
    not_excluded: int  # the place of the longest length that is not shown to be too long

    @property
    def tokens(self) -> int:
        """The effective length as it was counted."""
        return self.lengths[self.counted]

    @property
    def at_least(self) -> int:
        """The lower end of its interval: so much is shown to be reached."""
        return self.lengths[self.reached]

    @property
    def at_most(self) -> int:
        """The upper end of its interval, among the lengths that were asked."""
        return self.lengths[self.not_excluded]

    @property
    def below(self) -> int | None:
        """The shortest length that is shown not to be reached; None if the longest one may be."""
        longer = self.lengths[self.not_excluded + 1 :]
        return longer[0] if longer else None

    @property
    def undecided(self) -> tuple[int, ...]:
        """The lengths that may or may not be reached."""
        return self.lengths[self.reached + 1 : self.not_excluded + 1]


def length_tests(test: Test, margin: float, ends: tuple[Test, Test] | None = None) -> LengthTests:
    """Return both one-sided tests of a length, from the test of its answers against those of the
    shortest one.

    `ends`: the same with all answers that were cut off counted against this length, and for it.
    What is shown then holds whatever these answers would have been.
    """
    worst, best = ends or (test, test)
    p_kept, p_lost = 1.0, 1.0
    if worst.effect.value > -margin:
        p_kept = worst.p_at(-margin) / 2
    if best.effect.value < -margin:
        p_lost = best.p_at(-margin) / 2
    return LengthTests(p_kept, p_lost, test.effect.value >= -margin)


def effective_length(
    lengths: Sequence[int],
    tests: Sequence[LengthTests],
    alpha: float = ALPHA,
    kept_alpha: float | None = None,
) -> EffectiveLength:
    """Return the effective length; `tests` are those of all lengths but the shortest, in their
    order.

    `kept_alpha`: the level of what is shown to be kept, where it is not that of what is lost.
    """
    assert len(tests) == len(lengths) - 1
    half, last = alpha / 2, len(lengths) - 1
    kept = half if kept_alpha is None else kept_alpha / 2
    counted = _first_false([test.is_kept_as_counted for test in tests])
    reached = _first_false([test.p_kept < kept for test in tests])
    possible = [
        at for at in range(last, 0, -1) if not _is_too_long([test.p_lost for test in tests[:at]], half)
    ]
    return EffectiveLength(tuple(lengths), counted, reached, max(possible, default=0))


def _first_false(states: Sequence[bool]) -> int:
    """Return the place of the first false one; their number if all are true."""
    return next((at for at, state in enumerate(states) if not state), len(states))


def _is_too_long(ps: Sequence[float], level: float) -> bool:
    """Whether a length is shown not to be reached, from the p of recall being lost up to there."""
    *shorter, own = ps
    if not shorter:
        return own < level
    return own < level / 2 or min(shorter) * len(shorter) < level / 2
