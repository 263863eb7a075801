"""How often is the printed verdict a false alarm, and does it have the stated power?

`python bench/compare_null.py [--pairs 2000] [--seed 0]`. Two runs answer the same n questions. Questions differ in how
hard they are: each run solves a question when a common part (weight rho) and a part of its own, both normal, stay below
a bar that the accuracy sets. Equal bars are the null: every verdict on it but "no difference shown" is false.
Then the bars are as far apart as the smallest difference that n questions and this much disagreement should show. In
the last column the second run loses questions that both solve, on top of that disagreement, whatever their difficulty.
The verdicts are runner-compare's own, from answers to finding. Rates come with their 95 % intervals (Wilson). The exit
code is 1 if a false-positive rate is above 5 %, or a true difference is seen in less than 77 %, beyond noise.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runner.compare.data import Answers, Question, QuestionOutcome, Run, TableRow
from runner.compare.pairing import compare_pair, compare_unpaired
from runner.compare.runs import SampleReader
from runner.core.effects import Finding, judge
from runner.core.planning import smallest_detectable
from runner.core.stats import (
    ALPHA,
    POWER,
    unpaired_detectable_difference,
    wilson_interval,
)

NORMAL = statistics.NormalDist()
FAMILY = 5  # comparisons of one table with one baseline
SETTINGS = [  # questions, accuracy, rho: as a quantization changes a model, as another prompt does, as strangers agree
    (50, 0.7, 0.8),
    (200, 0.9, 0.95),
    (200, 0.5, 0.5),
    (200, 0.7, 0.0),
    (1319, 0.9, 0.95),
    (1319, 0.6, 0.8),
]
GROUPS = [(50, 0.7), (200, 0.9), (1319, 0.6)]  # questions a side, accuracy
SLACK = 0.03  # by which a power may miss what is promised

Solved = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass
class Rate:
    """How often something happened."""

    times: int
    of: int

    @property
    def low(self) -> float:
        """The lower end of its interval."""
        return wilson_interval(self.times, self.of)[0]

    @property
    def high(self) -> float:
        """The upper end of its interval."""
        return wilson_interval(self.times, self.of)[1]

    def __str__(self) -> str:
        low, high = (100 * end for end in wilson_interval(self.times, self.of))
        return f"{100 * self.times / self.of:5.2f} % [{low:5.2f}, {high:5.2f}]"


class Drawn(SampleReader):
    """Answers that were drawn and lie in no file."""

    def __init__(self, n: int) -> None:
        self.questions: list[Question] = [(index, f"question {index}", "42") for index in range(n)]
        self.answers: dict[str, Answers] = {}

    def of(self, run: Run) -> Answers:
        """Return what was drawn for the run."""
        return self.answers[run.run_id]

    def of_baseline(self, run: Run) -> Answers:
        """The same: it is read once anyway."""
        return self.of(run)


def answers(generator: np.random.Generator, n: int, accuracies: Sequence[float], rho: float) -> Solved:
    """Draw which of n questions runs of these true accuracies solve: a line a run."""
    hard = generator.standard_normal(n)
    own = generator.standard_normal((len(accuracies), n))
    bars = np.array([[NORMAL.inv_cdf(accuracy)] for accuracy in accuracies])
    solved: Solved = math.sqrt(rho) * hard + math.sqrt(1 - rho) * own < bars
    return solved


def lost_on_top(generator: np.random.Generator, solved: Solved, gap: float) -> Solved:
    """Let the second run lose questions that both solve, so many that its accuracy falls by the gap."""
    both = solved.all(axis=0)
    solved[1] &= ~(both & (generator.random(solved.shape[1]) < gap / both.mean()))
    return solved


def drawn_run(name: str, solved: Solved) -> Run:
    """Return a run as MLflow would have it, with the metrics that a verdict reads."""
    return Run(name, name, "gsm8k", "1", "", {}, {"n": float(len(solved)), "correct": float(solved.sum())})


def verdicts(solved: Solved, reader: Drawn) -> list[TableRow]:
    """Compare each run but the first with the first, as one table does."""
    runs = [drawn_run(f"run-{number}", line) for number, line in enumerate(solved)]
    for run, line in zip(runs, solved, strict=True):
        marks = (QuestionOutcome(solves, "the same prompt") for solves in line.tolist())
        reader.answers[run.run_id] = dict(zip(reader.questions, marks, strict=True))
    rows = [TableRow(run, {}, effects=[compare_pair(run, runs[0], reader)]) for run in runs[1:]]
    judge(it for row in rows for it in row.effects)
    return rows


def unpaired_verdict(first: Solved, second: Solved) -> TableRow:
    """Compare two runs on other questions."""
    base, run = drawn_run("base", first), drawn_run("run", second)
    row = TableRow(run, {}, effects=[compare_unpaired(run, base, "drawn")])
    judge(row.effects)
    return row


def found(rows: Sequence[TableRow]) -> bool:
    """Whether a table claims any difference."""
    return any(it.finding is not Finding.open for row in rows for it in row.effects)


def worse(row: TableRow) -> bool:
    """Whether a verdict is the true one where the second run is the worse one."""
    return row.effect is not None and row.effect.finding is Finding.worse


def disagreement(one: float, other: float, rho: float) -> float:
    """Return the probability that exactly one of two runs solves a question: an integral over its difficulty."""
    total = 0.0
    for step in range(401):
        hard = (step - 200) / 25
        p, q = (
            NORMAL.cdf((NORMAL.inv_cdf(accuracy) - math.sqrt(rho) * hard) / math.sqrt(1 - rho))
            for accuracy in (one, other)
        )
        total += NORMAL.pdf(hard) / 25 * (p * (1 - q) + q * (1 - p))
    return total


def promised(tables: Iterator[list[TableRow]]) -> tuple[Rate, float]:
    """Return how often tables claim a difference, and the median of their minimum detectable differences."""
    claims, seen = [], []
    for rows in tables:
        claims.append(found(rows))
        seen += [it.detectable for row in rows for it in row.effects]
    return Rate(sum(claims), len(claims)), statistics.median(1.0 if it is None else it for it in seen)


def paired(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print and return how often single comparisons and families find something, where there is none and where is."""
    nulls, powers = [], []
    print(f"\none comparison, paired: {pairs:,} pairs a line and side")
    print("    n  accuracy   rho  disagree       false verdicts  says ≥ points  true points     true verdicts"
          "         lost on top")  # fmt: skip
    for n, accuracy, rho in SETTINGS:
        reader, rate = Drawn(n), disagreement(accuracy, accuracy, rho)
        null, said = promised(verdicts(answers(generator, n, [accuracy] * 2, rho), reader) for _ in range(pairs))
        gap = smallest_detectable(n, rate) or accuracy
        apart = (verdicts(answers(generator, n, [accuracy, accuracy - gap], rho), reader)[0] for _ in range(pairs))
        power = Rate(sum(map(worse, apart)), pairs)
        drawn = (lost_on_top(generator, answers(generator, n, [accuracy] * 2, rho), gap) for _ in range(pairs))
        on_top = Rate(sum(worse(verdicts(solved, reader)[0]) for solved in drawn), pairs)
        print(f"{n:5d}  {accuracy:8.2f}  {rho:4.2f}  {100 * rate:6.1f} %  {null}  {100 * said:13.1f}  "
              f"{100 * gap:11.1f}  {power}  {on_top}", flush=True)  # fmt: skip
        nulls.append(null)
        powers += [power, on_top]
    print(f"\n{FAMILY} runs against one baseline, Holm: {pairs:,} tables a line and side")
    print("    n  accuracy   rho       any false verdict  says ≥ points  true points     true verdicts")
    for n, accuracy, rho in SETTINGS:
        reader = Drawn(n)
        level = [accuracy] * (FAMILY + 1)
        null, said = promised(verdicts(answers(generator, n, level, rho), reader) for _ in range(pairs))
        gap = smallest_detectable(n, disagreement(accuracy, accuracy, rho), alpha=ALPHA / FAMILY) or accuracy
        level[1] -= gap  # one of the runs differs, the others do not
        apart = (verdicts(answers(generator, n, level, rho), reader)[0] for _ in range(pairs))
        power = Rate(sum(map(worse, apart)), pairs)
        print(
            f"{n:5d}  {accuracy:8.2f}  {rho:4.2f}  {null}    {100 * said:13.1f}  {100 * gap:11.1f}  {power}", flush=True
        )
        nulls.append(null)
        powers.append(power)
    return nulls, powers


def unpaired(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return the rates of comparisons on other questions."""
    nulls = []
    print(f"\none comparison, other questions (--unpaired): {pairs:,} pairs a line and side")
    print("    n  accuracy       false verdicts  says ≥ points  true points     true verdicts")
    for n, accuracy in GROUPS:

        def draw(level: float, n: int = n) -> Solved:
            solved: Solved = answers(generator, n, [level], 0.0)[0]
            return solved

        null, said = promised([unpaired_verdict(draw(accuracy), draw(accuracy))] for _ in range(pairs))
        gap = unpaired_detectable_difference(n, n, accuracy) or accuracy
        power = Rate(sum(worse(unpaired_verdict(draw(accuracy), draw(accuracy - gap))) for _ in range(pairs)), pairs)
        print(f"{n:5d}  {accuracy:8.2f}  {null}  {100 * said:13.1f}  {100 * gap:11.1f}  {power}", flush=True)
        nulls.append(null)
    return nulls


def conclude(nulls: Sequence[Rate], started: float, powers: Sequence[Rate] = ()) -> int:
    """Print how many rates break their promise by more than noise; return the exit code, 1 if some do."""
    high = [rate for rate in nulls if rate.low > ALPHA]
    weak = [rate for rate in powers if rate.high < POWER - SLACK]
    print(f"\nfalse positives beyond {100 * ALPHA:.0f} % and noise: {len(high)} of {len(nulls)} lines; "
          f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    if powers:
        print(f"true differences seen in less than {100 * (POWER - SLACK):.0f} %, beyond noise: "
              f"{len(weak)} of {len(powers)} rates")  # fmt: skip
    return 1 if high or weak else 0


def begin(script: str, about: str | None, pairs: int = 2000) -> tuple[int, np.random.Generator, float]:
    """Parse the options of a simulation, print its command, and return the pairs, the generator and the start time."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=pairs)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"python bench/{script}.py --pairs {options.pairs} --seed {options.seed}")
    return options.pairs, np.random.default_rng(options.seed), time.perf_counter()


def main() -> int:
    """Simulate and print; 1 when a false-positive rate is above its level by more than noise."""
    pairs, generator, started = begin("compare_null", __doc__)
    nulls, powers = paired(generator, pairs)
    nulls += unpaired(generator, pairs)
    return conclude(nulls, started, powers)


if __name__ == "__main__":
    sys.exit(main())
