"""Does the verdict of a job that stops early stand in its table? `python bench/compare/early_stop_tables.py`.

A grid has k jobs that are compared with one baseline while they run (`task.early_stop_vs`), and answers 500 questions
(see simulation.answers). The task's own code runs each job, at 5 %/k, and runner-compare's own code judges the k pairs
together. The control is each job at 5 %, its table with all p adjusted by Holm, and a job that has not stopped tested
by McNemar. First all runs are equally good: how many tables, or jobs by themselves, call any pair different? Then the
jobs are worse by 20 points: how many of the verdicts that jobs have printed does the table repeat? At last jobs with
`task.early_stop_margin`: how many call a job as good whose accuracy is lower by just the margin, how many find that if
the two are equal, and after how many questions, next to Tango's test of all questions. No verdict
may be taken back.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from early_stop_null import BETS
from simulation import GOOD, Limits, Rate, Solved, Table, answers, begin, disagreement

from runner.records.jobs import Job
from runner.tasks.early_stop import EarlyStop
from runner_base import Answer, FinishReason, Sample, Verdict
from runner_compare.statistics import Finding, McNemarTest, SequentialTest, Test, decide_comparisons_with_holm
from runner_compare.statistics.sequential import Side

QUESTIONS = 500
JOBS = (1, 2, 5)  # of a grid, besides the baseline
# accuracy, rho: as quantization changes a model, as another prompt does
SETTINGS = [(0.6, 0.8), (0.5, 0.5)]
POINTS = 20  # by which jobs are worse
# points, questions, accuracy, rho
OF_MARGINS = [(2, 1319, 0.9, 0.95), (5, 1319, 0.6, 0.8), (5, 1319, 0.5, 0.5)]
FOUND = {Side.better: Finding.better, Side.worse: Finding.worse, Side.open: Finding.open}
MARKS = {
    solves: Sample(Answer("", [], FinishReason.stop, verdict=verdict), "sha", 1, 0.0, index=0)
    for solves, verdict in ((False, Verdict.wrong), (True, Verdict.correct))
}


def job_of(ours: Solved, theirs: Solved, comparisons: int, margin: float | None = None) -> EarlyStop:
    """Run a job by the task's own rule on answers that were drawn; return it as it ends."""
    solved, cut_off = theirs.tolist(), [False] * len(theirs)
    job = EarlyStop(
        "drawn",
        Job("base", Path()),
        solved,
        cut_off,
        range(len(theirs)),
        comparisons=comparisons,
        margin=margin,
    )
    job.start({number: MARKS[solves] for number, solves in enumerate(ours.tolist())})
    return job


def effect_of(asked: int, ours: Solved, theirs: Solved, comparisons: int | None) -> SequentialTest:
    """Return the bets on the questions that a job has asked, as the table makes them."""
    pairs = list(zip(ours[:asked].tolist(), theirs[:asked].tolist(), strict=True))
    return SequentialTest(pairs, comparisons)


_one_look = lru_cache(maxsize=1 << 16)(McNemarTest)


def effect_of_all(ours: Solved, theirs: Solved) -> McNemarTest:
    """Return McNemar's and Tango's tests of all questions."""
    return _one_look(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours))


@dataclass
class Tables:
    """The outcomes of a number of tables by one rule."""

    # a job or the table has called any pair different
    wrong: list[bool] = field(default_factory=list)
    decided: int = 0  # jobs that said better or worse
    kept: int = 0  # of these, those whose table says the same

    def add(self, decisions: list[Side], tests: Sequence[Test]) -> None:
        """Judge a table as runner-compare does, with what its jobs have decided."""
        said = [FOUND[decision] for decision in decisions]
        findings = [decision.finding for decision in decide_comparisons_with_holm(tests)]
        self.wrong.append(any(it is not Finding.open for it in (*said, *findings)))
        self.decided += sum(it is not Finding.open for it in said)
        self.kept += sum(
            ours is theirs for ours, theirs in zip(said, findings, strict=True) if ours is not Finding.open
        )

    @property
    def shown(self) -> str:
        """The verdicts that were kept, of all that jobs have printed."""
        return f"{self.kept} of {self.decided}"


def table_before(runs: list[Solved], theirs: Solved) -> tuple[list[Side], list[Test]]:
    """Return decisions and effects by the rule before: 5 % for each job, McNemar's test if it has
    not stopped."""
    decisions: list[Side] = []
    tests: list[Test] = []
    for ours in runs:
        asked, decision = BETS.stop(ours, theirs)
        is_open = decision is Side.open
        tests.append(effect_of_all(ours, theirs) if is_open else effect_of(asked, ours, theirs, None))
        decisions.append(decision)
    return decisions, tests


def tables(
    generator: np.random.Generator, count: int, jobs: int, accuracies: tuple[float, float], rho: float
) -> tuple[Tables, Tables]:
    """Return the outcomes of grids of so many jobs of the second accuracy: by the rule of today,
    and before."""
    now, before = Tables(), Tables()
    base, others = accuracies
    for _ in range(count):
        theirs, *runs = answers(generator, QUESTIONS, [base] + [others] * jobs, rho)
        stopped = [job_of(ours, theirs, jobs) for ours in runs]
        effects = [effect_of(job.asked, ours, theirs, jobs) for job, ours in zip(stopped, runs, strict=True)]
        now.add([job.bets.pairs.decision for job in stopped], effects)
        before.add(*table_before(runs, theirs))
    return now, before


def budgets(generator: np.random.Generator, count: int) -> tuple[list[Rate], int]:
    """Print how often tables are wrong and repeat what jobs have said; return rates, and verdicts
    taken back."""
    rates, taken_back = [], 0
    heads = ("jobs", "accuracy", "rho", "any pair different %", "kept", "control: any different %", "kept")
    for worse, of in ((0, count), (POINTS, max(1, count // 10))):
        words = f"are worse by {worse} points" if worse else "are equal"
        title = (
            f"grids of jobs that {words}, {QUESTIONS} questions, looked at after each: {of:,} grids a line"
        )
        lines = Table(title, *heads)
        for jobs in JOBS:
            for accuracy, rho in SETTINGS:
                now, before = tables(generator, of, jobs, (accuracy, accuracy - worse / 100), rho)
                wrong, control = (Rate(sum(it.wrong), of) for it in (now, before))
                lines.row(jobs, accuracy, rho, wrong, now.shown, control, before.shown)
                rates += [] if worse else [wrong]
                taken_back += now.decided - now.kept
    return rates, taken_back


def about_margin(
    generator: np.random.Generator,
    count: int,
    margin: float,
    questions: int,
    accuracies: tuple[float, float],
    rho: float,
) -> tuple[Rate, float, Rate, int]:
    """Run jobs with a margin: how many are called as good, and after how many questions in the
    middle of all jobs; how many Tango's test of all questions calls so; how many tables say
    something else than their job.
    """
    as_good, by_tango, asked, taken_back = 0, 0, [], 0
    for _ in range(count):
        ours, theirs = answers(generator, questions, accuracies, rho)
        job = job_of(ours, theirs, 1, margin)
        (effect,) = decide_comparisons_with_holm(
            [effect_of(job.asked, ours, theirs, 1)], {"accuracy": margin}
        )
        (tango,) = decide_comparisons_with_holm([effect_of_all(ours, theirs)], {"accuracy": margin})
        as_good += effect.verdict in GOOD
        by_tango += tango.verdict in GOOD
        asked.append(job.asked)
        taken_back += effect.verdict is not job.bets.verdict
    return Rate(as_good, count), statistics.median(asked), Rate(by_tango, count), taken_back


def margins(generator: np.random.Generator, count: int) -> tuple[list[Rate], int]:
    """Print how often jobs are called as good within a margin; return the rates of errors, and
    verdicts taken back."""
    rates, all_taken_back = [], 0
    title = f"jobs with a margin: {count:,} jobs a line; asked: the middle of all jobs, with those that never decide"
    heads = ("margin", "accuracy", "rho", "disagree", "questions", "worse by", "called as good %", "asked")
    table = Table(title, *heads, "Tango on all %")
    for points, questions, accuracy, rho in OF_MARGINS:
        for worse in (points, 0):
            accuracies = (accuracy - worse / 100, accuracy)
            rate, middle, tango, taken_back = about_margin(
                generator, count, points / 100, questions, accuracies, rho
            )
            disagrees = f"{disagreement(*accuracies, rho):.1%}"
            table.row(points, accuracy, rho, disagrees, questions, worse, rate, f"{middle:.0f}", tango)
            rates += [rate] if worse else []
            all_taken_back += taken_back
    return rates, all_taken_back


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded, or a table takes a verdict back."""
    (count, generator, started), limits = begin("early_stop_tables", __doc__), Limits()
    limits.false, taken_back = budgets(generator, count)
    of_margins, other_words = margins(generator, max(1, count // 2))
    limits.false += of_margins
    print(f"\nverdicts of jobs that their table takes back: {taken_back + other_words}")
    return limits.conclude(started) or int(taken_back + other_words > 0)


if __name__ == "__main__":
    sys.exit(main())
