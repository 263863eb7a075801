"""How often is a comparison of numbers (F1, BLEU, Brier, lengths) wrong? `python bench/compare/numbers_null.py`.

Each question has a number on each side. F1 is 0 or 1 for most questions, and differs in 5 or 40 % of them; BLEU is 0
for most; Brier scores all differ; lengths have a heavy tail (lognormal), and differ in 5 % of the questions or in all.
The real ones are the lengths of the embedded model's answers with plain and 4-bit weights (hard5); a coin decides which
run's answer belongs to which side. First both sides are equal: how often are they called different? Then one side is
moved by the same for all questions, or gets the worst number in 3 % of them: how often does the 95 % interval miss the
true difference? Last, both happen with the minimum detectable difference: how often is it found?
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from simulation import Drawn, Limits, Numbers, Rate, Table, options_of

from runner_compare.model.data import QuestionOutcome, Run
from runner_compare.statistics import Decision, Finding, decide_comparisons_with_holm
from runner_compare.ways.numbers import create_metric_test
from tools.commands import samples_of

QUESTIONS = [50, 200, 1000]
LOST = 0.03  # of the questions, where one side loses everything
REAL_QUESTIONS = 600
MANY = 200_000  # questions that show the mean of a kind

Draw = Callable[[np.random.Generator, int], tuple[Numbers, Numbers]]


def verdict(ours: Numbers, theirs: Numbers, better: int = 1) -> Decision:
    """Compare two runs by the number of each question."""
    reader, runs = Drawn(), []
    for name, values in (("ours", ours), ("theirs", theirs)):
        runs.append(Run(name, name, "task", "1", "", {}, {}, facts={"better": str(better)}, number="number"))
        reader.answers[name] = {
            (index, f"question {index}", ""): QuestionOutcome(False, "", number=value)
            for index, value in enumerate(values.tolist())
        }
    (decision,) = decide_comparisons_with_holm([create_metric_test(runs[0], runs[1], reader)])
    return decision


def redrawn(
    generator: np.random.Generator, values: Numbers, others: Numbers, share: float
) -> tuple[Numbers, Numbers]:
    """Return the values, and the same with others in the place of some of them."""
    return np.where(generator.random(len(values)) < share, others, values), values


def f1(generator: np.random.Generator, n: int) -> Numbers:
    """Draw scores of which most are 0 or 1."""
    kind = generator.random(n)
    scores: Numbers = np.where(kind < 0.35, 0.0, np.where(kind < 0.7, 1.0, generator.beta(2, 2, n)))
    return scores


def bleu(generator: np.random.Generator, n: int) -> Numbers:
    """Draw scores of which most are 0 and few are large."""
    scores: Numbers = np.minimum(100.0, generator.lognormal(2.5, 0.8, n)) * (generator.random(n) < 0.4)
    return scores


def brier(generator: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
    """Draw squared errors of probabilities; all questions differ a little."""
    hard = 1.5 * generator.standard_normal(n) + 0.5
    ours, theirs = (2 / (1 + np.exp(hard + 0.4 * generator.standard_normal(n))) ** 2 for _ in range(2))
    return ours, theirs


def lengths(generator: np.random.Generator, n: int) -> Numbers:
    """Draw lengths with a heavy tail."""
    return generator.lognormal(4.5, 1.0, n).round()


def other_lengths(generator: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
    """Draw lengths that differ for all questions."""
    usual = generator.lognormal(4.5, 0.8, n)
    ours, theirs = ((usual * generator.lognormal(0.0, 0.5, n)).round() for _ in range(2))
    return ours, theirs


KINDS: dict[str, Draw] = {
    "F1, 5 % differ": lambda generator, n: redrawn(generator, f1(generator, n), f1(generator, n), 0.05),
    "F1, 40 % differ": lambda generator, n: redrawn(generator, f1(generator, n), f1(generator, n), 0.4),
    "BLEU, 40 % differ": lambda generator, n: redrawn(generator, bleu(generator, n), bleu(generator, n), 0.4),
    "Brier": brier,
    "length, 5 % differ": lambda generator, n: redrawn(
        generator, lengths(generator, n), lengths(generator, n), 0.05
    ),
    "length, all differ": other_lengths,
}
LOWER = {"Brier"}  # the lower, the better


def real_lengths() -> tuple[Numbers, Numbers]:
    """Let the embedded model answer with 4-bit and with plain weights; return the characters of
    each answer."""
    both = samples_of(f"quantization=fp4,none task.split=hard5 task.limit={REAL_QUESTIONS}")
    ours, theirs = (np.array([len(sample["text"]) for sample in job], float) for job in both)
    return ours, theirs


def drawn_again(real: tuple[Numbers, Numbers]) -> Draw:
    """Return equal sides from two real runs: a coin decides whose number belongs to which side."""

    def draw(generator: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
        chosen, swapped = generator.integers(len(real[0]), size=n), generator.random(n) < 0.5
        ours, theirs = real[0][chosen], real[1][chosen]
        return np.where(swapped, theirs, ours), np.where(swapped, ours, theirs)

    return draw


def lost(generator: np.random.Generator, values: Numbers, share: float, worst: float) -> Numbers:
    """Let so many questions get the worst number."""
    return np.where(generator.random(len(values)) < share, worst, values)


def rates(
    generator: np.random.Generator, draw: Draw, n: int, pairs: int, better: int = 1
) -> tuple[list[Rate], float, list[Rate]]:
    """Return the rates of false verdicts and missed intervals, the median detectable difference,
    and the powers.

    Intervals and powers: the same for all questions, and everything in a few.
    """
    many, _ = draw(generator, MANY)
    worst = float(many.min() if better > 0 else many.max())
    gap = float(many.mean()) - worst
    false, missed, missed_lost = 0, 0, 0
    detectable: list[tuple[float, float]] = []
    for _ in range(pairs):
        ours, theirs = draw(generator, n)
        it = verdict(ours, theirs, better)
        false += it.finding is not Finding.open
        evenly, at_worst = (np.inf if one is None else one for one in (it.detectable, it.detectable_at_worst))
        detectable.append((evenly, at_worst))
        it = verdict(ours - gap, theirs, better)
        missed += not it.low - 1e-9 <= -gap <= it.high + 1e-9
        it = verdict(lost(generator, ours, LOST, worst), theirs, better)
        missed_lost += not it.low <= -LOST * gap <= it.high
    shift, fall = (float(statistics.median(values)) for values in zip(*detectable, strict=True))
    found, found_lost = 0, 0
    for _ in range(pairs):
        ours, theirs = draw(generator, n)
        found += verdict(ours - better * shift, theirs, better).finding is Finding.worse
        found_lost += (
            verdict(lost(generator, ours, fall / abs(gap), worst), theirs, better).finding is Finding.worse
        )
    wrong = [Rate(it, pairs) for it in (false, missed, missed_lost)]
    return wrong, shift, [Rate(found, pairs)] + [Rate(found_lost, pairs)] * (fall < abs(gap))


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    parser = options_of(__doc__, 200)
    parser.add_argument("--questions", type=int, nargs="+", default=QUESTIONS)
    options = parser.parse_args()
    (generator, started), limits = ((np.random.default_rng(options.seed), time.perf_counter()), Limits())
    kinds = KINDS | {"length, real": drawn_again(real_lengths())}
    questions = " ".join(map(str, options.questions))
    print(
        f"python bench/compare/numbers_null.py --pairs {options.pairs} --seed {options.seed} --questions {questions}"
    )
    heads = (
        "n",
        f"{'number':18}",
        "false verdicts %",
        "misses, all moved %",
        "misses, 3 % fall %",
        "detects",
    )
    table = Table(
        f"{options.pairs:,} pairs a line and side", *heads, "found, all moved %", "found, few fall %"
    )
    for n in options.questions:
        for name, draw in kinds.items():
            wrong, shift, found = rates(generator, draw, n, options.pairs, -1 if name in LOWER else 1)
            table.row(n, name, *wrong, f"{shift:.4g}", *found)
            limits.false.append(wrong[0])
            limits.missed += wrong[1:]
            limits.powers += found
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
