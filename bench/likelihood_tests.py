"""Which test should decide whether two runs have equal likelihoods?

`python bench/likelihood_tests.py [--pairs 2000] [--seed 0]`. Differences are drawn as in likelihood_null.py, and skewed
ones that are larger in longer texts. Each line has the share of equal pairs that a test calls different at 5 %, and the
share that it finds of pairs with a difference that flipped signs should detect, in alternating directions. Tests:
flipped signs; Johnson's t, which is adjusted by the sample's skewness; the bootstrap of t (999 resamples); the larger p
of flips and of each; flips with p times 1.5 and times 2, the larger part of what runner-compare does.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import numpy as np
from compare_null import begin
from likelihood_null import KINDS, NOISE, SPREAD, Numbers, skewed
from scipy import stats

from runner.core.ratios import FLIPS, ratio_error

RESAMPLES = 999
SAMPLES = (20, 50)  # few: of many, skewness matters less
Ps = dict[str, Numbers]


def skewed_longer(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return parts of which a few are far below, larger ones in longer texts."""
    drawn: Numbers = skewed(generator, tokens) * tokens / tokens.mean()
    return drawn


def draw(generator: np.random.Generator, samples: int, kind: Callable[..., Numbers]) -> tuple[Numbers, Numbers]:
    """Return the differences of texts between two equal runs, in nats, and their tokens."""
    tokens = np.clip(generator.lognormal(4.2, 0.5, samples), 5, 500).round()
    noise = NOISE * np.sqrt(tokens) * generator.standard_normal(samples)
    return SPREAD * kind(generator, tokens) * tokens + noise, tokens


def by_flips(generator: np.random.Generator, drawn: Numbers) -> Numbers:
    """Return the p of flipped signs of each line [P, n]."""
    signs = generator.integers(0, 2, (FLIPS, drawn.shape[1])) * 2.0 - 1.0
    seen = np.abs(drawn.sum(axis=1)) * (1 - 1e-12)
    beyond = sum((np.abs(some @ drawn.T) >= seen).sum(axis=0) for some in np.array_split(signs, 20))
    ps: Numbers = (1 + beyond) / (1 + FLIPS)
    return ps


def by_johnson(drawn: Numbers) -> Numbers:
    """Return the p of Johnson's t (Journal of the American Statistical Association 73, 1978) of each line."""
    samples, centre = drawn.shape[1], drawn.mean(axis=1)
    t = centre / drawn.std(axis=1, ddof=1) * samples**0.5
    t += stats.skew(drawn, axis=1) / samples**0.5 * (1 / 6 + t**2 / 3)
    ps: Numbers = 2 * stats.t.sf(np.abs(t), samples - 1)
    return ps


def by_bootstrap(generator: np.random.Generator, drawn: Numbers) -> Numbers:
    """Return the p of the bootstrap of t, both tails alike, of each line."""
    samples = drawn.shape[1]
    ps = np.empty(len(drawn))
    for index, line in enumerate(drawn):
        resampled = line[generator.integers(0, samples, (RESAMPLES, samples))]
        shifts, spread = resampled.mean(axis=1) - line.mean(), resampled.std(axis=1, ddof=1)
        ts = np.divide(shifts, spread, out=np.zeros_like(shifts), where=spread > 0)
        t = line.mean() / line.std(ddof=1)
        ps[index] = min(1.0, 2 * (1 + min((ts <= t).sum(), (ts >= t).sum())) / (1 + RESAMPLES))
    return ps


def tests(generator: np.random.Generator, drawn: Numbers) -> Ps:
    """Return the p of each test, one for each line of differences."""
    flips, johnson, bootstrap = by_flips(generator, drawn), by_johnson(drawn), by_bootstrap(generator, drawn)
    larger = {"flips+Johnson": np.maximum(flips, johnson), "flips+boot": np.maximum(flips, bootstrap)}
    return (
        {"flips": flips, "Johnson": johnson, "bootstrap": bootstrap}
        | larger
        | {"flips x 1.5": 1.5 * flips, "flips x 2": 2 * flips}
    )


def main() -> int:
    """Simulate and print."""
    pairs, generator, _ = begin("likelihood_tests", __doc__)
    for samples in SAMPLES:
        for name, kind in {**KINDS, "skewed, longer": skewed_longer}.items():
            texts = [draw(generator, samples, kind) for _ in range(2 * pairs)]
            drawn = np.array([nats for nats, _ in texts])
            error = statistics.median(ratio_error(nats.tolist(), tokens.tolist()) for nats, tokens in texts[:pairs])
            least = error * (stats.t.ppf(0.975, samples - 1) + stats.norm.ppf(0.8))
            signs = np.where(np.arange(pairs) % 2, 1.0, -1.0)
            moved = drawn[pairs:] + (signs * least)[:, None] * np.array([tokens for _, tokens in texts[pairs:]])
            null, alternative = tests(generator, drawn[:pairs]), tests(generator, moved)
            is_true = np.sign(moved.sum(axis=1)) == signs
            print(f"\n{samples:3d}  {name:14s}" + "".join(f"{test:>15s}" for test in null))
            print(" " * 5 + f"{'false, %':14s}" + "".join(f"{100 * (p < 0.05).mean():15.2f}" for p in null.values()))
            power_cells = (f"{100 * ((p < 0.05) & is_true).mean():15.1f}" for p in alternative.values())
            print(" " * 5 + f"{'found, %':14s}" + "".join(power_cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
