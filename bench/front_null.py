"""Does the Pareto front take noise for a finding? `python bench/front_null.py [--draws 400] [--real FOLDER]`.

The same setting five times under five names: answers of equal accuracy to the same questions (drawn as in
compare_null.py), speeds with log-normal noise, memory that differs a little. On each line most of the draws must show
nothing: no row dominated, no difference from the baseline named. Then settings that do differ, and how often the front
says so. With --real, five seeds of the embedded model, which change nothing in kind, are run there one by one and
compared. Rates come with their 95 % intervals (Wilson).
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

import numpy as np
from compare_null import Drawn, Rate, answers, drawn_run

from runner.compare.data import QuestionOutcome, Run, Table, TableRow
from runner.compare.front import SPEED_TOLERANCE, mark_front
from runner.compare.pairing import compare_pair
from runner.compare.runs import SampleReader, load_runs, open_store, store_to_read
from runner.compare.selection import newest
from runner.compare.table import ComparisonOptions, tabulate
from runner.compare.wording import front_rule
from runner.core.effects import Finding, judge
from runner.core.machine import EXCLUSIVE

ROWS = 5  # of one setting
LEAST_QUIET = 0.95  # of the draws in which nothing differs
SETTINGS = [(200, 0.9, 0.95), (200, 0.6, 0.5), (1319, 0.6, 0.8)]  # questions, accuracy, rho: see compare_null.py
NOISES = [(0.03, 1), (0.04, 1), (0.05, 4), (0.15, 4)]  # of a speed's logarithm; runs of each job
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
) -> tuple[Table, list[TableRow]]:
    """Draw the measurements of a grid, compare each row with the first, and mark the front."""
    reader = Drawn(n)
    solved = answers(generator, n, [it.accuracy for it in settings], rho)
    rows: list[TableRow] = []
    for number, (it, line) in enumerate(zip(settings, solved, strict=True)):
        run = drawn_run(f"{number} {it.name}", line)
        reader.answers[run.run_id] = {
            question: QuestionOutcome(solves, "")
            for question, solves in zip(reader.questions, line.tolist(), strict=True)
        }
        run.metrics["model_mib"] = it.memory * math.exp(MEMORY_NOISE * generator.standard_normal())
        speeds = it.speed * np.exp(noise * generator.standard_normal(runs))
        run.metrics["decode_tok_per_s"] = float(speeds[0])
        run.earlier = [Run(run.run_id, run.job_id, "gsm8k", "1", "", {}, {"decode_tok_per_s": float(speed)})
                       for speed in speeds[1:]]  # fmt: skip
        rows.append(TableRow(run, {}, is_baseline=not rows))
    for row in rows[1:]:
        row.effects = [compare_pair(row.run, rows[0].run, reader)]
    judge(it for row in rows for it in row.effects)
    table = Table("gsm8k", [], rows)
    mark_front(table, reader)
    return table, rows


def names_a_difference(rows: Sequence[TableRow]) -> bool:
    """Whether a difference from the baseline is named."""
    return any(it.finding is not Finding.open for row in rows for it in row.effects)


def nulls(generator: np.random.Generator, draws: int) -> list[Rate]:
    """Print and return how often five rows of the same setting show no finding."""
    print(f"\nthe same setting {ROWS} times: {draws:,} draws a line")
    print(
        "    n  accuracy   rho  speed noise  runs        no row dominated     no difference named       nothing claimed"
    )
    rates = []
    for n, accuracy, rho in SETTINGS:
        for noise, runs in NOISES:
            tables = [table_of(generator, [Setting("same", accuracy)] * ROWS, n, rho, noise, runs)[1]
                      for _ in range(draws)]  # fmt: skip
            calm = [not any(row.dominated_by for row in rows) for rows in tables]
            silent = [not names_a_difference(rows) for rows in tables]
            both = Rate(sum(one and other for one, other in zip(calm, silent, strict=True)), draws)
            print(f"{n:5d}  {accuracy:8.2f}  {rho:4.2f}  {100 * noise:9.0f} %  {runs:4d}  "
                  f"{Rate(sum(calm), draws)}  {Rate(sum(silent), draws)}  {both}", flush=True)  # fmt: skip
            rates.append(both)
    return rates


def powers(generator: np.random.Generator, draws: int) -> None:
    """Print how often the front is right about settings that differ."""
    none = Setting("none", 0.9)
    cases = [
        ("a third of the memory: none falls to it", none, Setting("nf4", 0.9, memory=33.0), 0),
        ("the same, and 3 points more accurate", none, Setting("nf4", 0.93, memory=33.0), 0),
        ("10 points less accurate: fp4 falls to nf4", Setting("nf4", 0.9, memory=33.0), Setting("fp4", 0.8, 33.0), 1),
        ("half the speed: that falls to none", none, Setting("slow", 0.9, speed=25.0), 1),
        ("5 points less accurate, a third of the memory: none falls to it", none, Setting("nf3", 0.85, 33.0), 0),
    ]
    print(f"\ntwo settings that differ, 5 % of speed noise, one run each: {draws:,} draws a line")
    print("    n                                                              what is asked      how often")
    for n in (200, 1319):
        for words, one, other, falls in cases:
            drawn = (table_of(generator, [one, other], n, 0.95, 0.05, 1)[1][falls] for _ in range(draws))
            print(f"{n:5d}  {words:>66}  {Rate(sum(row.on_front is False for row in drawn), draws)}", flush=True)


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
        client = open_store(store.uri)
        runs = newest(load_runs(client, store.experiment))
        alone = sum(run.facts.get("measured") == EXCLUSIVE for run in runs)
        for run in (each for one in runs for each in (one, *one.earlier)):
            run.facts["measured"] = EXCLUSIVE
        table = tabulate(runs, ComparisonOptions({"seed": "0"}), SampleReader(client, folder / name, folder))
        for row in table.rows:
            it, speed = row.run.metrics, row.standing["decode_tok_per_s"]
            print(f"  seed {row.config['seed']}: accuracy {100 * it['accuracy']:.0f} %, model {it['model_mib']:.2f}, "
                  f"peak RSS {it['peak_rss_mib']:.0f} MiB, decode {speed.value:,.0f} tok/s "
                  f"({speed.low:,.0f}..{speed.high:,.0f}): {'front' if row.on_front else 'dominated'}")  # fmt: skip
        print(f"  {alone} of {len(runs)} measured alone; the others count here, too, with their noise")
        print(f"  {front_rule(table)}")
        calm = all(row.on_front for row in table.rows) and not names_a_difference(table.rows)
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
    print(f"python bench/front_null.py --draws {options.draws} --seed {options.seed}   "
          f"(tolerance of speeds {100 * SPEED_TOLERANCE:.0f} %)")  # fmt: skip
    rates = nulls(generator, options.draws)
    powers(generator, options.draws)
    low = [rate for rate in rates if rate.times < LEAST_QUIET * rate.of]
    print(f"\nlines with less than {100 * LEAST_QUIET:.0f} of 100 draws without a finding: {len(low)} of {len(rates)}; "
          f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    calm = real(options.real.absolute(), options.tries) if options.real else True
    return 1 if low or not calm else 0


if __name__ == "__main__":
    sys.exit(main())
