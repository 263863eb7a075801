"""How often is a comparison of likelihoods a false alarm, and does it have the stated power?

`python bench/likelihood_null.py [--pairs 2000] [--seed 0]`. Two runs score the same texts of unequal length. A text's
difference is its tokens times a part of its own, whose mean is 0 under the null, plus noise of each token. Parts are
normal, skewed (a few texts move a lot, one way: exponential), lopsided (very few move very far: lognormal), heavy
(Student's t of 3), or larger in longer texts. Then all parts are moved by the difference that so many texts should
show, in alternating directions. The verdicts are runner-compare's own, from samples to finding. Rates come with their
95 % intervals (Wilson).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence

import numpy as np
from compare_null import Rate, begin, conclude

from runner.compare.data import Run, TableRow, Texts, TextScore
from runner.compare.likelihood import compare_likelihoods
from runner.compare.runs import SampleReader
from runner.core.effects import Finding, judge
from runner.core.metrics import LOG_LIKELIHOOD
from runner.core.result import Likelihood

SAMPLES = (20, 50, 200)
SPREAD = 0.003  # of a text's own part, in nats a token: as of 4-bit weights of the embedded model
NOISE = 0.02  # of a single token
FAMILY = 3  # comparisons of one table with one baseline

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def normal(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return symmetric parts."""
    return generator.standard_normal(len(tokens))


def skewed(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return parts of mean 0 of which a few are far below."""
    return 1.0 - generator.exponential(size=len(tokens))


def lopsided(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return parts of mean 0 of which very few are very far below: lognormal, with a skewness of 6."""
    drawn: Numbers = (np.e**0.5 - generator.lognormal(size=len(tokens))) / (np.e**2 - np.e) ** 0.5
    return drawn


def heavy(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return parts with outliers on both sides."""
    drawn: Numbers = generator.standard_t(3, size=len(tokens)) / 3**0.5
    return drawn


def longer(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return parts that are larger in longer texts."""
    drawn: Numbers = generator.standard_normal(len(tokens)) * tokens / tokens.mean()
    return drawn


KINDS: dict[str, Callable[[np.random.Generator, Numbers], Numbers]] = {
    "normal": normal, "skewed": skewed, "lopsided": lopsided, "heavy": heavy, "longer": longer,
}  # fmt: skip


class Drawn(SampleReader):
    """Random texts that are in no file."""

    def __init__(self) -> None:
        self.drawn: dict[str, Texts] = {}

    def texts(self, run: Run) -> Texts:
        """Return the run's random texts."""
        return self.drawn[run.run_id]


def table(generator: np.random.Generator, samples: int, kind: str, moved: Sequence[float]) -> list[TableRow]:
    """Draw a baseline and runs with these shifts, and compare each with the baseline like one table."""
    tokens = np.clip(generator.lognormal(4.2, 0.5, samples), 5, 500).round()
    reader, common = Drawn(), -generator.gamma(2.0, 0.1, samples) * tokens
    runs = []
    for number, shift in enumerate((0.0, *moved)):
        own = SPREAD * KINDS[kind](generator, tokens) + shift if number else np.zeros(samples)
        noise = NOISE * np.sqrt(tokens) * generator.standard_normal(samples) * (number > 0)
        nats = common + own * tokens + noise
        name = f"run-{number}"
        runs.append(Run(name, name, "likelihood", "1", "", {}, {LOG_LIKELIHOOD: float(nats.sum() / tokens.sum())}))
        parts = zip(nats.tolist(), tokens.astype(int).tolist(), strict=True)
        reader.drawn[name] = {
            unit: TextScore(("question", "gold"), "prompt", (), Likelihood(unit, value, count, count, count, 0))
            for unit, (value, count) in enumerate(parts)
        }
    rows = [TableRow(run, {}, effects=[compare_likelihoods(run, runs[0], reader)]) for run in runs[1:]]
    judge(it for row in rows for it in row.effects)
    return rows


def claims(rows: Sequence[TableRow]) -> bool:
    """Whether a table calls any run different."""
    return any(it.finding is not Finding.open for row in rows for it in row.effects)


def rates(generator: np.random.Generator, samples: int, kind: str, pairs: int, runs: int) -> tuple[Rate, float, Rate]:
    """Return the rate of false positives, the median minimum detectable difference, and the power at it."""
    nulls = [table(generator, samples, kind, [0.0] * runs) for _ in range(pairs)]
    detectable_differences = [it.detectable or 0.0 for rows in nulls for row in rows for it in row.effects]
    least = statistics.median(detectable_differences)
    true_verdicts = 0
    for number in range(pairs):
        sign, finding = ((1, Finding.better), (-1, Finding.worse))[number % 2]
        it = table(generator, samples, kind, [sign * least, *[0.0] * (runs - 1)])[0].effect
        true_verdicts += it is not None and it.finding is finding
    return Rate(sum(map(claims, nulls)), pairs), least, Rate(true_verdicts, pairs)


def main() -> int:
    """Simulate and print; 1 if a false-positive rate exceeds its level by more than noise."""
    pairs, generator, started = begin("likelihood_null", __doc__)
    nulls = []
    for runs, kinds in ((1, list(KINDS)), (FAMILY, ["normal", "skewed"])):
        print(f"\n{runs} run{'s' * (runs > 1)} against one baseline: {pairs:,} tables a line and side")
        print("  n  parts     any false verdict  says ≥ nats/token      true verdicts")
        for samples in SAMPLES:
            for kind in kinds:
                null, least, power = rates(generator, samples, kind, pairs, runs)
                print(f"{samples:3d}  {kind:8s}  {null}  {least:17.5f}  {power}", flush=True)
                nulls.append(null)
    return conclude(nulls, started)


if __name__ == "__main__":
    sys.exit(main())
