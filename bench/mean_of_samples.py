"""How many questions do several answers to each save in a comparison, and is it still right about equal runs?

`python bench/mean_of_samples.py [--pairs 400] [--seed 0]`. Each run answers each question eight times. First runs are
drawn: a question has a chance of being solved that depends on its difficulty, and the two runs' chances differ, too.
Equal runs show the false positives, and runs that differ the power: of one answer each, of the majority vote (as
runner-compare did), and of the mean over the answers (as it does). Then eight real answers of the embedded model to
each question (hard5, sampled at two temperatures) take the place of drawn ones: questions are drawn again with
repetition, and a coin decides for each which run's answers belong to which side, for equal runs; without the coin, for
the power.
"Needed" is how many questions make the power 80 %, found by trying. The exit code is 1 if equal pairs are called
different in more than 5 %, or intervals miss the truth in more than 6 %, beyond noise.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fast_flips
import numpy as np
from compare_null import Rate, begin

from runner.core.effects import Effect, Finding, judge, paired_accuracies, paired_means
from runner.core.stats import ALPHA, POWER

QUESTIONS, ANSWERS = (50, 200), 8
GAP = 0.05
MISSES = 0.06
REAL_QUESTIONS = 200
TRIED = (50, 100, 200, 300, 400, 600, 800, 1200)

Counts = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Draw = Callable[[int], tuple[Counts, Counts]]


def drawn(
    generator: np.random.Generator, n: int, level: float, gap: float, spread: float = 1.5
) -> tuple[Counts, Counts]:
    """Draw how many of the answers to n questions are right on each side; the first side is better by about the gap."""
    hard = spread * generator.standard_normal(n)
    centre = np.log(level / (1 - level)) * (1 + spread**2 / 3) ** 0.5
    step = 4 * gap * (1 + spread**2 / 3) ** 0.5
    sides = [centre + hard + 0.5 * generator.standard_normal(n) + side * step / 2 for side in (1, -1)]
    first, second = (generator.binomial(ANSWERS, 1 / (1 + np.exp(-it))) for it in sides)
    return first, second


def of_one_answer(generator: np.random.Generator, ours: Counts, theirs: Counts) -> Effect:
    """Compare the first answer to each question."""
    one, other = (generator.random(len(it)) < it / ANSWERS for it in (ours, theirs))
    return paired_accuracies(int((one & ~other).sum()), int((other & ~one).sum()), len(one))


def of_votes(generator: np.random.Generator, ours: Counts, theirs: Counts) -> Effect:
    """Compare majority votes; a tie of right and wrong answers goes either way."""
    one, other = (it + generator.integers(0, 2, len(it)) > ANSWERS // 2 for it in (ours, theirs))
    return paired_accuracies(int((one & ~other).sum()), int((other & ~one).sum()), len(one))


def of_means(_: np.random.Generator, ours: Counts, theirs: Counts) -> Effect:
    """Compare the shares of right answers."""
    return paired_means(((ours - theirs) / ANSWERS).tolist(), samples=ANSWERS)


WAYS = {"one answer": of_one_answer, "vote": of_votes, "mean": of_means}


def rates(generator: np.random.Generator, pairs: int, draw: Draw, n: int, truth: float) -> dict[str, tuple[Rate, Rate]]:
    """Return for each way how often it calls the first side better, or any different if it is not; and its misses."""
    claims, missed = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0)
    for _ in range(pairs):
        ours, theirs = draw(n)
        for name, way in WAYS.items():
            it = way(generator, ours, theirs)
            judge([it])
            claims[name] += it.finding is Finding.better if truth else it.finding is not Finding.open
            missed[name] += not it.low <= truth <= it.high
    return {name: (Rate(claims[name], pairs), Rate(missed[name], pairs)) for name in WAYS}


def show(what: str, n: int, found: dict[str, tuple[Rate, Rate]]) -> None:
    """Print one line: the claims of each way, and the misses of the mean's interval."""
    cells = "  ".join(str(claims) for claims, _ in found.values())
    print(f"{what:30s}  {n:5d}  {cells}  {found['mean'][1]}", flush=True)


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
    """Let the embedded model answer each question eight times at two temperatures; return how often each is right."""
    with tempfile.TemporaryDirectory() as folder:
        command = f"-m generation=sampling generation.temperature=0.7,1.3 task.samples={ANSWERS} task.split=hard5 "
        command += f"task.limit={REAL_QUESTIONS} tracking=none print=json"
        done = subprocess.run(
            [sys.executable, "-m", "runner", *command.split()], cwd=folder, capture_output=True, text=True, check=True
        )
        both = []
        for line in done.stdout.splitlines():
            samples = (Path(json.loads(line)["output_dir"]) / "samples.jsonl").read_text().splitlines()
            asked = sorted(map(json.loads, samples), key=lambda sample: sample["index"])
            both.append(np.array([sum(it["verdict"] == "correct" for it in one["choices"]) for one in asked]))
        return both[0], both[1]


def main() -> int:
    """Simulate and print; 1 if a promise is broken by more than noise."""
    pairs, generator, started = begin("mean_of_samples", __doc__)
    fast_flips.use()
    broken = 0
    first, second = real_answers()
    real_gap = float((first - second).mean() / ANSWERS)
    print(f"\n{ANSWERS} answers to each question; {pairs:,} pairs a line. Real: hard5, {len(first)} questions, "
          f"right: {first.mean() / ANSWERS:.1%} at temperature 0.7, {second.mean() / ANSWERS:.1%} at 1.3")  # fmt: skip
    print(f"{'said to differ':30s}  {'n':>5s}  " + "  ".join(f"{name:>23s}" for name in WAYS)
          + "   mean's interval misses")  # fmt: skip

    def equal(n: int) -> tuple[Counts, Counts]:
        chosen, swapped = generator.integers(len(first), size=n), generator.random(n) < 0.5
        return np.where(swapped, first[chosen], second[chosen]), np.where(swapped, second[chosen], first[chosen])

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
            broken += (found["mean"][0].low > ALPHA) + (found["mean"][1].low > MISSES)
    shifted: dict[str, tuple[Draw, float]] = {f"real, {100 * real_gap:.1f} points": (apart, real_gap)}
    for level in (0.5, 0.9):
        ours, theirs = drawn(generator, 1_000_000, level, GAP)
        truth = float((ours - theirs).mean() / ANSWERS)
        shifted[f"{level:.0%}, {100 * truth:.1f} points"] = level_of(level, GAP), truth
    for what, (draw, truth) in shifted.items():
        for n in QUESTIONS:
            found = rates(generator, pairs, draw, n, truth)
            show(what, n, found)
            broken += found["mean"][1].low > MISSES
        least = needed(generator, pairs // 2, draw, truth)
        words = ", ".join(f"{name} {'more than ' + str(TRIED[-1]) if n is None else n}" for name, n in least.items())
        print(f"    needed for {100 * POWER:.0f} %: {words}")
    print(f"\nrates of the mean beyond 5 % (intervals: 6 %) and noise: {broken}; {time.perf_counter() - started:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
