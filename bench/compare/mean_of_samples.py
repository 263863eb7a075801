"""How many questions does the mean over samples save? `python bench/compare/mean_of_samples.py`.

Each run answers each question eight times. First runs are drawn: a question has a chance of being solved that depends
on its difficulty, and the two runs' chances differ, too. Equal runs show the false positives, and runs that differ the
power: of one answer each, of the majority vote, and of the mean over the answers (as runner-compare does it). Then
eight real answers of the embedded model to each question (hard5, sampled at two temperatures) take the place of drawn
ones: questions are drawn again with repetition, and a coin decides for each which run's answers belong to which side,
for equal runs; without the coin, for the power. "Needed" is how many questions make the power 80 %, found by trying.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from simulation import Limits, Rate, Table, begin

from runner_compare.statistics import (
    POWER,
    Finding,
    McNemarTest,
    MeanFlipTest,
    Test,
    decide_comparisons_with_holm,
)
from tools.commands import samples_of

QUESTIONS, ANSWERS = (50, 200), 8
GAP = 0.05
REAL_QUESTIONS = 200
TRIED = (50, 100, 200, 300, 400, 600, 800, 1200)

Counts = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Draw = Callable[[int], tuple[Counts, Counts]]


def drawn(
    generator: np.random.Generator, n: int, level: float, gap: float, spread: float = 1.5
) -> tuple[Counts, Counts]:
    """Draw how many of the answers to n questions are right on each side; the first side is better
    by about the gap."""
    hard = spread * generator.standard_normal(n)
    centre = np.log(level / (1 - level)) * (1 + spread**2 / 3) ** 0.5
    step = 4 * gap * (1 + spread**2 / 3) ** 0.5
    sides = [centre + hard + 0.5 * generator.standard_normal(n) + side * step / 2 for side in (1, -1)]
    first, second = (generator.binomial(ANSWERS, 1 / (1 + np.exp(-it))) for it in sides)
    return first, second


def of_one_answer(generator: np.random.Generator, ours: Counts, theirs: Counts) -> Test:
    """Compare the first answer to each question."""
    one, other = (generator.random(len(it)) < it / ANSWERS for it in (ours, theirs))
    return McNemarTest(int((one & ~other).sum()), int((other & ~one).sum()), len(one))


def of_votes(generator: np.random.Generator, ours: Counts, theirs: Counts) -> Test:
    """Compare majority votes; a tie of right and wrong answers goes either way."""
    one, other = (it + generator.integers(0, 2, len(it)) > ANSWERS // 2 for it in (ours, theirs))
    return McNemarTest(int((one & ~other).sum()), int((other & ~one).sum()), len(one))


def of_means(_: np.random.Generator, ours: Counts, theirs: Counts) -> Test:
    """Compare the shares of right answers."""
    return MeanFlipTest(((ours - theirs) / ANSWERS).tolist(), samples=ANSWERS)


WAYS = {"one answer": of_one_answer, "vote": of_votes, "mean": of_means}


def rates(
    generator: np.random.Generator, pairs: int, draw: Draw, n: int, truth: float
) -> dict[str, tuple[Rate, Rate]]:
    """Return for each way how often it calls the first side better, or any different if it is not;
    and its misses."""
    claims, missed = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0)
    for _ in range(pairs):
        ours, theirs = draw(n)
        for name, way in WAYS.items():
            (it,) = decide_comparisons_with_holm([way(generator, ours, theirs)])
            claims[name] += it.finding is Finding.better if truth else it.finding is not Finding.open
            missed[name] += not it.low <= truth <= it.high
    return {name: (Rate(claims[name], pairs), Rate(missed[name], pairs)) for name in WAYS}


def needed(generator: np.random.Generator, pairs: int, draw: Draw, truth: float) -> dict[str, int | None]:
    """Return how many questions each way needs for a power of 80 %; None: more than were tried."""
    least: dict[str, int | None] = dict.fromkeys(WAYS)
    for n in TRIED:
        found = rates(generator, pairs, draw, n, truth)
        for name, (claims, _) in found.items():
            if least[name] is None and claims.times / claims.of >= POWER:
                least[name] = n
        if None not in least.values():
            break
    return least


def real_answers() -> tuple[Counts, Counts]:
    """Let the embedded model answer each question eight times at two temperatures; return how often
    each is right."""
    sampling = f"generation=sampling generation.temperature=0.7,1.3 task.samples={ANSWERS}"
    both = samples_of(f"{sampling} task.split=hard5 task.limit={REAL_QUESTIONS}")
    first, second = (
        np.array([sum(it["verdict"] == "correct" for it in one["choices"]) for one in asked])
        for asked in both
    )
    return first, second


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("mean_of_samples", __doc__), Limits()
    first, second = real_answers()
    real_gap = float((first - second).mean() / ANSWERS)
    about = f"right: {first.mean() / ANSWERS:.1%} at temperature 0.7, {second.mean() / ANSWERS:.1%} at 1.3"
    title = f"{ANSWERS} answers to each question; {pairs:,} pairs a line. Real: hard5, {len(first)} questions, {about}"
    table = Table(
        title, f"{'said to differ':20}", "n", *(f"{name} %" for name in WAYS), "mean's interval misses %"
    )

    def show(what: str, n: int, found: dict[str, tuple[Rate, Rate]]) -> None:
        table.row(what, n, *(claims for claims, _ in found.values()), found["mean"][1])
        limits.missed.append(found["mean"][1])

    def equal(n: int) -> tuple[Counts, Counts]:
        chosen, swapped = generator.integers(len(first), size=n), generator.random(n) < 0.5
        return np.where(swapped, first[chosen], second[chosen]), np.where(
            swapped, second[chosen], first[chosen]
        )

    def apart(n: int) -> tuple[Counts, Counts]:
        chosen = generator.integers(len(first), size=n)
        return first[chosen], second[chosen]

    def level_of(level: float, gap: float) -> Draw:
        return lambda n: drawn(generator, n, level, gap)

    nulls: dict[str, Draw] = {f"equal, {level:.0%}": level_of(level, 0.0) for level in (0.5, 0.9, 0.97)}
    for what, draw in (nulls | {"equal, real": equal}).items():
        for n in QUESTIONS:
            found = rates(generator, pairs, draw, n, 0.0)
            show(what, n, found)
            limits.false.append(found["mean"][0])
    shifted: dict[str, tuple[Draw, float]] = {f"real, {100 * real_gap:.1f} points": (apart, real_gap)}
    for level in (0.5, 0.9):
        ours, theirs = drawn(generator, 1_000_000, level, GAP)
        truth = float((ours - theirs).mean() / ANSWERS)
        shifted[f"{level:.0%}, {100 * truth:.1f} points"] = level_of(level, GAP), truth
    for what, (draw, truth) in shifted.items():
        for n in QUESTIONS:
            show(what, n, rates(generator, pairs, draw, n, truth))
        least = needed(generator, pairs // 2, draw, truth)
        words = ", ".join(
            f"{name} {'more than ' + str(TRIED[-1]) if n is None else n}" for name, n in least.items()
        )
        print(f"    needed for {100 * POWER:.0f} %: {words}")
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
