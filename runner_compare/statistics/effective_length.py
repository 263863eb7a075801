"""Effective context length: the longest length before recall drops by more than a margin, with an interval.

Each length has the same questions as the shortest one. Recall is lost where it is below
that of the shortest by more than a margin. The effective length is the last length before
the first one at which it is lost. Nothing is assumed about the form of the curve, so recall
that returns at a longer length does not count.

The interval contains the lengths that no test excludes, each end at half of the error:

- A length is excluded as too short if recall is shown to be kept at the next one
(non-inferiority). The lengths are tested in order, and the first one that is not shown to
be kept ends the sequence. So each is tested at the whole level: to reach too far, the test
of the first length at which recall is lost has to be wrong.
- A length is excluded as too long if recall is shown to be lost there, or at a shorter one.
Half of the level is for the length itself, half is shared by all shorter ones.

The intervals of several settings in one table hold together, because the reader looks for
the longest one: each setting has a part of the level. A setting that is shown to reach the
longest length passes its level on to the others (Bretz, Maurer, Brannath and Posch, A
graphical approach to sequentially rejective multiple test procedures, 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner_compare.statistics.effects import Test
from runner_compare.statistics.stats import ALPHA


@dataclass(frozen=True)
class LengthTests:
    """One-sided tests of recall at one context length against the shortest length."""

    p_kept: float  # small: recall is shown to be kept within the margin
    p_lost: float  # small: recall is shown to be lost by more than the margin
    is_kept_as_counted: bool  # whether recall is within the margin, as it was counted


@dataclass(frozen=True)
class EffectiveLength:
    """Effective context length among the tested lengths, with its confidence interval."""

    lengths: tuple[int, ...]
    counted: int  # the place of the longest length that is kept as it was counted, without a test
    reached: int  # the place of the longest length that is shown to be reached
    not_excluded: int  # the place of the longest length that is not shown to be too long

    @property
    def tokens(self) -> int:
        """Effective context length in tokens, estimated from the observed recall without a test."""
        return self.lengths[self.counted]

    @property
    def at_least(self) -> int:
        """Lower bound in tokens: tests exclude a recall loss beyond the margin up to this length."""
        return self.lengths[self.reached]

    @property
    def at_most(self) -> int:
        return self.lengths[self.not_excluded]

    @property
    def first_lost_length(self) -> int | None:
        longer = self.lengths[self.not_excluded + 1 :]
        return longer[0] if longer else None

    @property
    def undecided_lengths(self) -> tuple[int, ...]:
        return self.lengths[self.reached + 1 : self.not_excluded + 1]


def compute_recall_loss_tests(
    test: Test, margin: float, cut_off_bounds: tuple[Test, Test] | None = None
) -> LengthTests:
    """Test at one context length for a recall loss, and for the absence of a loss.

    `cut_off_bounds` holds the same test with all cut-off answers counted against this length, and
    for it. The result then holds for any verdict of these answers.
    """
    worst, best = cut_off_bounds or (test, test)
    p_kept, p_lost = 1.0, 1.0
    if worst.effect.value > -margin:
        p_kept = worst.compute_p_value(-margin) / 2
    if best.effect.value < -margin:
        p_lost = best.compute_p_value(-margin) / 2
    return LengthTests(p_kept, p_lost, test.effect.value >= -margin)


def find_effective_context_length(
    lengths: Sequence[int],
    tests: Sequence[LengthTests],
    alpha: float = ALPHA,
    no_loss_alpha: float | None = None,
) -> EffectiveLength:
    """Find the effective context length from tests that compare each length with the shortest one.

    `no_loss_alpha`: the level of the tests for no loss, if it differs from `alpha`.
    """
    assert len(tests) == len(lengths) - 1
    half, last = alpha / 2, len(lengths) - 1
    kept = half if no_loss_alpha is None else no_loss_alpha / 2
    counted = _first_false_index([test.is_kept_as_counted for test in tests])
    reached = _first_false_index([test.p_kept < kept for test in tests])
    possible = [
        at
        for at in range(last, 0, -1)
        if not _has_significant_recall_loss([test.p_lost for test in tests[:at]], half)
    ]
    return EffectiveLength(tuple(lengths), counted, reached, max(possible, default=0))


def _first_false_index(flags: Sequence[bool]) -> int:
    """Return the index of the first False, or the number of values if all are True."""
    return next((at for at, state in enumerate(flags) if not state), len(flags))


def _has_significant_recall_loss(p_lost_values: Sequence[float], level: float) -> bool:
    *shorter, own = p_lost_values
    if not shorter:
        return own < level
    return own < level / 2 or min(shorter) * len(shorter) < level / 2
