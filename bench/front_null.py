"""Does the Pareto front take noise for a finding? `python bench/front_null.py [--draws 400] [--real FOLDER]`.

The same setting five times under five names: answers of equal accuracy to the same questions (drawn as in
compare_null.py), speeds with noise from run to run, memory that differs a little. In at most 5 % of the tables of a
line may a row be called dominated. Then a cheap setting that is truly worse by the margin or more: in at most 5 % may
it hide the better one. Both also with questions in families, drawn as in cluster_null.py. Last, settings that are truly
dominated, and how often the front says so. With --real, five seeds of the embedded model, which change nothing in kind,
are run there one by one and compared. Rates come with their 95 % intervals (Wilson). The exit code is 1 if a wrong rate
is above 5 %, beyond noise.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cluster_null
import numpy as np
from compare_null import Drawn, Rate, answers, drawn_run

from runner.compare.data import QuestionOutcome, Run, Table, TableRow
from runner.compare.front import ACCURACY_MARGIN, SPEED_MARGIN, mark_front
from runner.compare.run_list import load_runs
from runner.compare.runs import SampleReader, open_store, store_to_read
from runner.compare.selection import newest
from runner.compare.table import ComparisonOptions, tabulate
from runner.compare.wording import front_rule
from runner.core.effects import Finding
from runner.core.machine import EXCLUSIVE
from runner.core.stats import ALPHA

ROWS = 5  # of one setting
IN_FAMILIES, TWINS = -1.0, 10  # instead of a rho: families of ten questions each, as in cluster_null.py
SETTINGS = [  # questions, accuracy, rho: see compare_null.py
    (200, 0.9, 0.95),
    (200, 0.6, 0.5),
    (1319, 0.6, 0.8),
    (200, 0.7, IN_FAMILIES),
    (1000, 0.7, IN_FAMILIES),
]
WITHIN = 0.01  # noise of a speed's logarithm within a run
NOISES = [(0.08, 1), (0.06, 3), (0.03, 5), (0.15, 5)]  # of a speed's logarithm between runs; runs of each job
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


def table_of(
    generator: np.random.Generator, settings: Sequence[Setting], n: int, rho: float, noise: float, runs: int
) -> list[TableRow]:
    """Draw the measurements of a grid, and mark the front; without rho, questions come in families."""
    reader, accuracies = Drawn(n), [it.accuracy for it in settings]
    family: list[str | None] = [None] * n
    if rho == IN_FAMILIES:
        solved, numbers = cluster_null.answers(generator, n // TWINS, TWINS, False, accuracies)
        family = [f"family {number}" for number in numbers]
    else:
        solved = list(answers(generator, n, accuracies, rho))
    rows: list[TableRow] = []
    for number, (it, line) in enumerate(zip(settings, solved, strict=True)):
        run = drawn_run(f"{number} {it.name}", line)
        reader.answers[run.run_id] = {
            question: QuestionOutcome(solves, "", name)
            for question, solves, name in zip(reader.questions, line.tolist(), family, strict=True)
        }
        run.metrics["model_mib"] = it.memory * math.exp(MEMORY_NOISE * generator.standard_normal())
        speeds = it.speed * np.exp(math.hypot(noise, WITHIN) * generator.standard_normal(runs))
        run.metrics["decode_tok_per_s"] = float(speeds[0])
        run.earlier = [Run(run.run_id, run.job_id, "gsm8k", "1", "", {}, {"decode_tok_per_s": float(speed)})
                       for speed in speeds[1:]]  # fmt: skip
        rows.append(TableRow(run, {}, is_baseline=not rows))
    mark_front(Table("gsm8k", [], rows), reader)
    return rows


def nulls(generator: np.random.Generator, draws: int) -> list[Rate]:
    """Print and return how often one of five rows of the same setting is called dominated."""
    print(f"\nthe same setting {ROWS} times: {draws:,} tables a line")
    print("    n  accuracy       rho  noise between runs  runs       a row is dominated")
    rates = []
    for n, accuracy, rho in SETTINGS:
        for noise, runs in NOISES:
            wrong = 0
            for _ in range(draws):
                rows = table_of(generator, [Setting("same", accuracy)] * ROWS, n, rho, noise, runs)
                wrong += any(row.dominated_by for row in rows)
            rates.append(Rate(wrong, draws))
            print(
                f"{n:5d}  {accuracy:8.2f}  {words_of(rho):>8s}  {100 * noise:16.0f} %  {runs:4d}  {rates[-1]}",
                flush=True,
            )
    return rates


def words_of(rho: float) -> str:
    """Return how questions are alike, in words."""
    return "families" if rho == IN_FAMILIES else f"{rho:.2f}"


def fallen(
    generator: np.random.Generator,
    draws: int,
    case: tuple[str, Setting, Setting],
    n: int,
    noise: float,
    runs: int,
    rho: float = 0.95,
) -> tuple[Rate, str]:
    """Return how often the second setting makes the first one fall, and the line about it."""
    words, falls, cheap = case
    tables = (table_of(generator, [falls, cheap], n, rho, noise, runs) for _ in range(draws))
    rate = Rate(sum(rows[0].on_front is False for rows in tables), draws)
    return rate, f"{n:5d}  {100 * noise:3.0f} %  {runs:4d}  {words:>45}  {rate}"


def worse(generator: np.random.Generator, draws: int) -> list[Rate]:
    """Print and return how often a setting at a third of the memory, truly worse, hides a better one."""
    none = Setting("none", 0.9)
    accuracies = [
        (f"{points} points less accurate", none, Setting("nf4", 0.9 - points / 100, memory=33.0))
        for points in (2, 3, 4, 5)
    ]
    speeds = [
        (f"{percent} % slower", none, Setting("nf4", 0.9, memory=33.0, speed=50 / (1 + percent / 100)))
        for percent in (10, 20, 100)
    ]
    print(f"\na third of the memory, but truly worse: {draws:,} tables a line")
    print("    n  noise  runs                 the cheap setting against none        none is dominated")
    rates = []
    for n in (200, 1319):
        for case in accuracies:
            rates.append(show(fallen(generator, draws, case, n, 0.05, 1)))
        for case in speeds:
            rates += [show(fallen(generator, draws, case, n, 0.05, runs)) for runs in (3, 5)]
    for points in (2, 5):
        nf4 = Setting("nf4", 0.9 - points / 100, memory=33.0)
        case = f"{points} points less accurate, in families", none, nf4
        rates += [show(fallen(generator, draws, case, n, 0.05, 1, IN_FAMILIES)) for n in (200, 1000)]
    return rates


def show(line: tuple[Rate, str]) -> Rate:
    """Print a line, and return its rate."""
    print(line[1], flush=True)
    return line[0]


def powers(generator: np.random.Generator, draws: int) -> None:
    """Print how often a setting that is truly dominated is found."""
    nf4 = Setting("nf4", 0.9, memory=33.0)
    cases = [
        ("three times the memory", Setting("none", 0.9), nf4),
        ("the same, and 3 points less accurate", Setting("none", 0.87), nf4),
        ("10 points less accurate", Setting("fp4", 0.8, 33.0), nf4),
        ("half the speed", Setting("slow", 0.9, 33.0, 25.0), nf4),
        ("20 % slower, three times the memory", Setting("none", 0.9, 100.0, 50 / 1.2), nf4),
    ]
    print(f"\ntruly dominated by the other of two rows: {draws:,} tables a line")
    print("    n  noise  runs                             what is true of it          it is dominated")
    for n in (200, 1319):
        for case in cases:
            show(fallen(generator, draws, case, n, QUIET, 1))
            for noise in (QUIET, 0.05):
                for runs in RUNS:
                    show(fallen(generator, draws, case, n, noise, runs))


def real(folder: Path, tries: int) -> bool:
    """Run five seeds one by one, compare them and print the result; returns whether there was no finding."""
    seeds, sampled = ",".join(map(str, range(ROWS))), ("generation=sampling", "task.limit=100")
    quiet = True
    for name, groups in (("greedy", ("task.limit=100",)), ("sampled", sampled)):
        command = ["runner", "-m", f"seed={seeds}", *groups, f"output_dir={folder / name}",
                   "workers=1", "hydra.launcher.fresh=true"]  # fmt: skip
        print(f"\n{' '.join(command)}")
        store = store_to_read(folder / name, None, None) if (folder / name / "mlflow.db").exists() else None
        for number in range(tries if store is None else 0):
            again = ["rerun=all"] * (number > 0)
            subprocess.run(
                [sys.executable, "-m", *command, *again, "print=none"], check=True, stderr=subprocess.DEVNULL
            )
        store = store_to_read(folder / name, None, None)
        assert store is not None
        client = open_store(store.uri)
        runs = newest(load_runs(client, store))
        alone = sum(run.facts.get("measured") == EXCLUSIVE for run in runs)
        for run in (each for one in runs for each in (one, *one.earlier)):
            run.facts["measured"] = EXCLUSIVE
        table = tabulate(runs, ComparisonOptions({"seed": "0"}), SampleReader(client, folder / name, folder))
        for row in table.rows:
            it, speed = row.run.metrics, row.standing["decode_tok_per_s"]  # of --tries runs, which are enough
            print(f"  seed {row.config['seed']}: accuracy {100 * it['accuracy']:.0f} %, model {it['model_mib']:.2f}, "
                  f"peak RSS {it['peak_rss_mib']:.0f} MiB, decode {speed.value:,.0f} tok/s "
                  f"({speed.low:,.0f}..{speed.high:,.0f}): {'front' if row.on_front else 'dominated'}")  # fmt: skip
        print(f"  {alone} of {len(runs)} measured alone; the others count here, too, with their noise")
        print(f"  {front_rule(table)}")
        named = any(it.finding is not Finding.open for row in table.rows for it in row.effects)
        calm = all(row.on_front for row in table.rows) and not named
        print(f"  {'no row dominated, no difference named' if calm else 'NOISE TAKEN FOR A FINDING'}", flush=True)
        quiet = quiet and calm
    return quiet


def main() -> int:
    """Simulate and print, run with --real; 1 if noise was called a finding too often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path, metavar="FOLDER")
    parser.add_argument("--tries", type=int, default=3, help="of each seed with --real (default: %(default)s)")
    options = parser.parse_args()
    generator, started = np.random.default_rng(options.seed), time.perf_counter()
    print(f"python bench/front_null.py --draws {options.draws} --seed {options.seed}   (margins "
          f"{100 * ACCURACY_MARGIN:g} points, {100 * SPEED_MARGIN:g} % of speed)")  # fmt: skip
    rates = [*nulls(generator, options.draws), *worse(generator, options.draws)]
    powers(generator, options.draws)
    high = [rate for rate in rates if rate.low > ALPHA]
    print(f"\nlines with a wrong row in more than {100 * ALPHA:.0f} of 100 tables, beyond noise: {len(high)} of "
          f"{len(rates)}; {time.perf_counter() - started:.0f} s")  # fmt: skip
    calm = real(options.real.absolute(), options.tries) if options.real else True
    return 1 if high or not calm else 0


if __name__ == "__main__":
    sys.exit(main())
