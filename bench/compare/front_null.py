"""Does the Pareto front take noise for a finding? `python bench/compare/front_null.py [--draws 400] [--seed 0]`.

The same setting five times under five names: answers of equal accuracy to the same questions, speeds with noise from
run to run, memory that differs a little. A line counts the tables in which any row is called dominated. Then a cheap
setting that is truly worse by the margin or more: how often does it hide the better one? Both also with questions in
families, drawn as in cluster_null.py. Last, settings that are truly dominated, and how often the front says so.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cluster_null
import numpy as np
from simulation import Drawn, Limits, Rate, Table, answers, begin

from runner_compare.features.front.compute import ACCURACY_MARGIN, SPEED_MARGIN, mark_pareto_front
from runner_compare.model.data import Run, TableRow
from runner_compare.model.data import Table as ComparedTable

ROWS = 5  # of one setting
# instead of a rho: families of ten questions each, as in cluster_null.py
IN_FAMILIES, TWINS = (-1.0, 10)
SETTINGS = [  # questions, accuracy, rho: see simulation.answers
    (200, 0.9, 0.95),
    (200, 0.6, 0.5),
    (1319, 0.6, 0.8),
    (200, 0.7, IN_FAMILIES),
    (1000, 0.7, IN_FAMILIES),
]
WITHIN = 0.01  # noise of a speed's logarithm within a run
# of a speed's logarithm between runs; runs of each job
NOISES = [(0.08, 1), (0.06, 3), (0.03, 5), (0.15, 5)]
RUNS = (3, 5)  # of each job, so that speed counts
QUIET = 0.02  # noise between runs of a quiet machine
MEMORY_NOISE = 0.003  # answers of other lengths


@dataclass(frozen=True)
class Setting:
    """What is true of a row."""

    name: str
    accuracy: float
    memory: float = 100.0
    speed: float = 50.0
    joules: float = 0.0  # of a question; 0: not counted


def table_of(
    generator: np.random.Generator, settings: Sequence[Setting], n: int, rho: float, noise: float, runs: int
) -> list[TableRow]:
    """Draw the measurements of a grid, and mark the front; without rho, questions come in
    families."""
    reader, accuracies = Drawn(n), [it.accuracy for it in settings]
    family: list[str | None] = [None] * n
    if rho == IN_FAMILIES:
        solved, numbers = cluster_null.answers(generator, n // TWINS, TWINS, False, accuracies)
        family = [f"family {number}" for number in numbers]
    else:
        solved = list(answers(generator, n, accuracies, rho))
    rows: list[TableRow] = []
    for number, (it, line) in enumerate(zip(settings, solved, strict=True)):
        run = reader.add(f"{number} {it.name}", line, family)
        run.metrics["model_mib"] = it.memory * math.exp(MEMORY_NOISE * generator.standard_normal())
        speeds = it.speed * np.exp(math.hypot(noise, WITHIN) * generator.standard_normal(runs))
        measured = [{"decode_tok_per_s": float(speed)} for speed in speeds]
        if it.joules:
            drawn = np.exp(math.hypot(noise, WITHIN) * generator.standard_normal(runs))
            for metrics, spread in zip(measured, drawn.tolist(), strict=True):
                metrics["joules_per_question"] = it.joules * spread
        run.metrics |= measured[0]
        run.earlier = [Run(run.run_id, run.job_id, "gsm8k", "1", "", {}, metrics) for metrics in measured[1:]]
        rows.append(TableRow(run, {}, is_baseline=not rows))
    mark_pareto_front(ComparedTable("gsm8k", [], rows), reader)
    return rows


def nulls(generator: np.random.Generator, draws: int, limits: Limits) -> None:
    """Print how often one of five rows of the same setting is called dominated."""
    heads = (
        *("n", "accuracy", "rho     ", "noise between runs", "runs"),
        *("a row is dominated %", "with energy, too %"),
    )
    table = Table(f"the same setting {ROWS} times: {draws:,} tables a line", *heads)
    for n, accuracy, rho in SETTINGS:
        for noise, runs in NOISES:
            found = []
            for joules in (0.0, 10.0):
                wrong, same = 0, Setting("same", accuracy, joules=joules)
                for _ in range(draws):
                    rows = table_of(generator, [same] * ROWS, n, rho, noise, runs)
                    wrong += any(row.dominated_by for row in rows)
                found.append(Rate(wrong, draws))
            limits.false += found
            words = "families" if rho == IN_FAMILIES else f"{rho:.2f}"
            table.row(n, accuracy, words, f"{noise:.0%}", runs, *found)


def fallen(
    generator: np.random.Generator,
    draws: int,
    case: tuple[str, Setting, Setting],
    n: int,
    noise: float,
    runs: int,
    rho: float = 0.95,
) -> Rate:
    """Return how often the second setting makes the first one fall."""
    _, falls, cheap = case
    tables = (table_of(generator, [falls, cheap], n, rho, noise, runs) for _ in range(draws))
    return Rate(sum(rows[0].on_front is False for rows in tables), draws)


def worse(generator: np.random.Generator, draws: int, limits: Limits) -> None:
    """Print how often a setting at a third of the memory, truly worse, hides a better one."""
    none = Setting("none", 0.9)
    accuracies = [
        (f"{points} points less accurate", none, Setting("nf4", 0.9 - points / 100, memory=33.0))
        for points in (2, 3, 4, 5)
    ]
    speeds = [
        (f"{percent} % slower", none, Setting("nf4", 0.9, memory=33.0, speed=50 / (1 + percent / 100)))
        for percent in (10, 20, 100)
    ]
    energies = [
        (
            f"{percent} % more energy",
            replace(none, joules=10.0),
            Setting("nf4", 0.9, memory=33.0, joules=10 * (1 + percent / 100)),
        )
        for percent in (10, 20, 100)
    ]
    heads = "n", "noise", "runs", f"{'the cheap setting against none':>36}", "none is dominated %"
    table = Table(f"a third of the memory, but truly worse: {draws:,} tables a line", *heads)

    def show(case: tuple[str, Setting, Setting], n: int, runs: int, rho: float = 0.95) -> None:
        limits.false.append(fallen(generator, draws, case, n, 0.05, runs, rho))
        table.row(n, "5%", runs, case[0] + ", in families" * (rho == IN_FAMILIES), limits.false[-1])

    for n in (200, 1319):
        for case in accuracies:
            show(case, n, 1)
        for case in (*speeds, *energies):
            for runs in RUNS:
                show(case, n, runs)
    for case in (accuracies[0], accuracies[-1]):
        for n in (200, 1000):
            show(case, n, 1, IN_FAMILIES)


def powers(generator: np.random.Generator, draws: int) -> None:
    """Print how often a setting that is truly dominated is found."""
    nf4 = Setting("nf4", 0.9, memory=33.0)
    cases = [
        ("three times the memory", Setting("none", 0.9), nf4),
        ("the same, and 3 points less accurate", Setting("none", 0.87), nf4),
        ("10 points less accurate", Setting("fp4", 0.8, 33.0), nf4),
        ("half the speed", Setting("slow", 0.9, 33.0, 25.0), nf4),
        ("twice the energy", Setting("hot", 0.9, 33.0, joules=20.0), replace(nf4, joules=10.0)),
        ("20 % slower, three times the memory", Setting("none", 0.9, 100.0, 50 / 1.2), nf4),
    ]
    heads = "n", "noise", "runs", f"{'what is true of it':>36}", "it is dominated %"
    table = Table(f"truly dominated by the other of two rows: {draws:,} tables a line", *heads)
    for n in (200, 1319):
        for case in cases:
            for noise, runs in [(QUIET, 1), *((noise, runs) for noise in (QUIET, 0.05) for runs in RUNS)]:
                table.row(n, f"{noise:.0%}", runs, case[0], fallen(generator, draws, case, n, noise, runs))


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (draws, generator, started), limits = begin("front_null", __doc__, 400, "draws"), Limits()
    print(f"margins: {100 * ACCURACY_MARGIN:g} points, {SPEED_MARGIN:.0%} of speed")
    nulls(generator, draws, limits)
    worse(generator, draws, limits)
    powers(generator, draws)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
