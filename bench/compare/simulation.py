"""Shared by the simulations: answers that are drawn, rates with their intervals, tables of them, and their limits.

In each simulation the truth is known and the verdicts are the product's own. Rates come with 95 % intervals (Wilson).
A simulation ends with exit code 1 where a rate is beyond its limit by more than noise.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runner_compare.model.data import Answers, Question, QuestionOutcome, Run, Texts
from runner_compare.reader import Reader
from runner_compare.statistics import ALPHA, POWER, MarginVerdict
from runner_compare.statistics.stats import compute_wilson_interval

NORMAL = statistics.NormalDist()
MISSES = 0.06  # of intervals that may miss the truth
SLACK = 0.03  # by which a power may miss what is promised
# not worse than the margin
GOOD = {MarginVerdict.as_good, MarginVerdict.worse_but_within, MarginVerdict.better}
RATE_WIDTH = 23

Solved = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass
class Rate:
    """How often something happened."""

    times: int
    of: int

    @property
    def low(self) -> float:
        """The lower end of its interval."""
        return compute_wilson_interval(self.times, self.of)[0]

    @property
    def high(self) -> float:
        """The upper end of its interval."""
        return compute_wilson_interval(self.times, self.of)[1]

    @property
    def plain(self) -> str:
        """The rate without its interval."""
        return f"{100 * self.times / self.of:.1f} %"

    def __str__(self) -> str:
        return f"{100 * self.times / self.of:5.2f} % [{100 * self.low:5.2f}, {100 * self.high:5.2f}]"


class Table:
    """A table that is printed row by row. A head that ends with `%` is one of rates with
    intervals."""

    def __init__(self, title: str, *heads: str) -> None:
        self.widths = [max(len(head), 4, RATE_WIDTH * head.endswith("%")) for head in heads]
        print(f"\n{title}")
        self.row(*heads)

    def row(self, *cells: object) -> None:
        """Print a row; words of the first column are aligned to the left, all else to the right."""
        pairs = list(zip(map(str, cells), self.widths, strict=False))
        shown = [cell.rjust(width) for cell, width in pairs]
        if not pairs[0][0][:1].isdigit():
            shown[0] = pairs[0][0].ljust(pairs[0][1])
        print("  ".join(shown), flush=True)


@dataclass
class Limits:
    """The rates that have a limit: it is exceeded if the whole interval is beyond it."""

    false: list[Rate] = field(default_factory=list)  # false verdicts
    gates: list[Rate] = field(default_factory=list)  # gates that pass where the truth does not
    missed: list[Rate] = field(default_factory=list)  # intervals that miss the truth
    ends: list[Rate] = field(default_factory=list)  # upper ends of intervals below the truth
    # true differences that are found: often enough
    powers: list[Rate] = field(default_factory=list)
    planned: list[Rate] = field(default_factory=list)  # and neither too seldom nor too often

    def conclude(self, started: float) -> int:
        """Print how many rates exceed their limits; return the exit code, 1 if some do."""
        least, most = POWER - SLACK, POWER + SLACK
        kinds = [
            (
                f"false verdicts in more than {ALPHA:.0%}",
                self.false,
                [it for it in self.false if it.low > ALPHA],
            ),
            (
                f"gates passed wrongly in more than {ALPHA / 2:.1%}",
                self.gates,
                [it for it in self.gates if it.low > ALPHA / 2],
            ),
            (
                f"missed truths in more than {MISSES:.0%}",
                self.missed,
                [it for it in self.missed if it.low > MISSES],
            ),
            (
                f"upper ends below the truth in more than {ALPHA / 2:.1%}",
                self.ends,
                [it for it in self.ends if it.low > ALPHA / 2],
            ),
            (f"powers below {least:.0%}", self.powers, [it for it in self.powers if it.high < least]),
            (
                f"powers off {POWER:.0%}",
                self.planned,
                [it for it in self.planned if it.high < least or it.low > most],
            ),
        ]
        print(f"\nbeyond noise, {time.perf_counter() - started:.0f} s:")
        for words, rates, wrong in kinds:
            if rates:
                print(f"{words}: {len(wrong)} of {len(rates)} rates")
        return int(any(wrong for _, _, wrong in kinds))


def begin(
    script: str, about: str | None, pairs: int = 2000, count: str = "pairs"
) -> tuple[int, np.random.Generator, float]:
    """Parse the options of a simulation, print its command, and return the pairs, the generator and
    the start time."""
    parser = options_of(about, pairs, count)
    options = parser.parse_args()
    chosen: int = getattr(options, count)
    print(f"python bench/compare/{script}.py --{count} {chosen} --seed {options.seed}", flush=True)
    return chosen, np.random.default_rng(options.seed), time.perf_counter()


def options_of(about: str | None, pairs: int, count: str = "pairs") -> argparse.ArgumentParser:
    """Return the options that each simulation has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{count}", type=int, default=pairs)
    parser.add_argument("--seed", type=int, default=0)
    return parser


class Drawn(Reader):
    """Answers, numbers or texts that were drawn and lie in no file, by the run's id."""

    def __init__(self, n: int = 0) -> None:
        super().__init__()
        self.questions: list[Question] = [(index, f"question {index}", "42") for index in range(n)]
        self.answers: dict[str, Answers] = {}
        self.of_texts: dict[str, Texts] = {}

    def add(
        self,
        name: str,
        solved: Solved,
        families: Iterable[str | None] | None = None,
        cut_off: Solved | None = None,
    ) -> Run:
        """Add the answers of a run; return it as MLflow would have it, with the metrics that a
        verdict reads."""
        names = [None] * len(solved) if families is None else list(families)
        cuts = [0] * len(solved) if cut_off is None else cut_off.tolist()
        marks = [
            QuestionOutcome(it, "prompt", family, cut_off=int(cut))
            for it, family, cut in zip(solved.tolist(), names, cuts, strict=True)
        ]
        self.answers[name] = dict(zip(self.questions, marks, strict=True))
        return drawn_run(name, solved)

    def load_answers(self, run: Run) -> Answers:
        """Return what was drawn for the run."""
        return self.answers[run.run_id]

    load_baseline_answers = load_metric_values = load_answers

    def load_text_scores(self, run: Run) -> Texts:
        """Return the texts that were drawn for the run."""
        return self.of_texts[run.run_id]


def drawn_run(name: str, solved: Solved) -> Run:
    """Return a run as MLflow would have it, with the metrics that a verdict reads."""
    return Run(name, name, "gsm8k", "1", "", {}, {"n": float(len(solved)), "correct": float(solved.sum())})


def answers(generator: np.random.Generator, n: int, accuracies: Sequence[float], rho: float) -> Solved:
    """Draw which of n questions runs of these true accuracies solve: a line a run.

    A run solves a question when the question's difficulty (weight rho) and a part of this run stay
    below a bar.
    """
    hard = generator.standard_normal(n)
    own = generator.standard_normal((len(accuracies), n))
    bars = np.array([[NORMAL.inv_cdf(accuracy)] for accuracy in accuracies])
    solved: Solved = math.sqrt(rho) * hard + math.sqrt(1 - rho) * own < bars
    return solved


def disagreement(one: float, other: float, rho: float) -> float:
    """Return the probability that exactly one of two runs solves a question: an integral over its
    difficulty."""
    total = 0.0
    for step in range(401):
        hard = (step - 200) / 25
        p, q = (
            NORMAL.cdf((NORMAL.inv_cdf(accuracy) - math.sqrt(rho) * hard) / math.sqrt(1 - rho))
            for accuracy in (one, other)
        )
        total += NORMAL.pdf(hard) / 25 * (p * (1 - q) + q * (1 - p))
    return total
