"""How often does a gate pass where the truth does not? `python bench/compare/gates_null.py [--pairs 1000]`.

Each job has a metric of which the truth is known and just what `--require` excludes, or is well inside the limit. The
gates are runner-compare's own. Metrics: an accuracy, the percentile of a divergence over texts (ordinary ones, and with
a rare kind that has the tail), and a speed over runs. The control reads the measured value alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from runs_null import SHAPES, errors
from simulation import Limits, Rate, Table, begin

from runner_compare.data import Run, TableRow
from runner_compare.data import Table as Compared
from runner_compare.metrics import KL_SHARES
from runner_compare.sections.gates import Requirements, check, parse_requirements
from runner_compare.statistics.token_percentiles import TokenValues

Generator = np.random.Generator
Draw = Callable[
    [Generator, int, float], Run
]  # a job of so many questions, texts or runs with such a truth
TOKENS, FARTHER = 40, 150


def run_of(metrics: dict[str, float]) -> Run:
    """Return a run with these metrics."""
    return Run("run", "run", "any", "1", "", {}, metrics)


def accuracy(generator: Generator, n: int, truth: float) -> Run:
    """Draw the verdicts of a job."""
    correct = float(generator.binomial(n, truth))
    return run_of({"n": float(n), "correct": correct, "accuracy": correct / n})


def divergence(rare: float, key: str) -> Draw:
    """Return what draws jobs of texts of which a share is farther off; the truth is the scale of
    the others."""
    share = KL_SHARES[key]
    many = np.random.default_rng(1).normal(0, 0.3, 400_000) + np.random.default_rng(2).normal(
        0, 1, 400_000
    )
    kinds = np.where(np.arange(400_000) < rare * 400_000, FARTHER, 1)
    unit = float(
        np.quantile(kinds * np.exp(many), share)
    )  # the percentile of texts whose scale is 1

    def draw(generator: Generator, n: int, truth: float) -> Run:
        scales = (
            truth
            / unit
            * np.where(generator.random(n) < rare, FARTHER, 1)
            * np.exp(generator.normal(0, 0.3, n))
        )
        values = TokenValues(
            (scales[:, None] * np.exp(generator.normal(0, 1, (n, TOKENS)))).tolist()
        )
        ends = values.interval(share)
        known = {} if ends is None else {f"{key}_low": ends[0], f"{key}_high": ends[1]}
        return run_of({key: values.percentile(share), "n": float(n)} | known)

    return draw


def speed(shape: str) -> Draw:
    """Return what draws the runs of one job; the truth is the median of processes."""
    middle = float(np.median(errors(np.random.default_rng(1), shape, (400_000,), 0)))

    def draw(generator: Generator, n: int, truth: float) -> Run:
        drawn = truth * np.exp(errors(generator, shape, (n,), 0) - middle)
        first, *earlier = [run_of({"decode_tok_per_s": float(value)}) for value in drawn]
        return replace(first, earlier=earlier)

    return draw


def cases() -> Iterator[tuple[str, str, tuple[int, ...], Draw, float, float]]:
    """Return the name, the gate, the sizes, what draws, the truth that is just excluded, and one
    well inside."""
    for limit in (0.5, 0.8, 0.95):
        yield (
            f"accuracy {limit:.0%}",
            f"accuracy>{limit}",
            (50, 200, 1319),
            accuracy,
            limit,
            (3 + limit) / 4,
        )
    for name, rare in (("ordinary texts", 0.0), ("2 % rare", 0.02), ("6 % rare", 0.06)):
        for key in ("kl_p95_nats", "kl_p99_nats"):
            short = key.removesuffix("_nats")
            yield (
                f"{short}, {name}",
                f"{short}<0.02nats",
                (50, 200, 600),
                divergence(rare, key),
                0.02,
                0.01,
            )
    for shape in SHAPES:
        yield f"speed, {shape}", "decode_tok_per_s>100", (1, 3, 6, 10), speed(shape), 100.0, 120.0


def passes(gate: str, run: Run) -> bool:
    """Whether a row passes."""
    table = Compared("any", [], [TableRow(run, {})])
    check([table], parse_requirements([gate], [run]))
    return all(it.met for it in table.of(Requirements).of_rows)


def value_passes(gate: str, run: Run) -> bool:
    """Whether the measured value alone does."""
    (term,) = parse_requirements([gate], [run])
    value, limit = run.metrics[term.key], float(term.value)
    return value > limit if term.sign == ">" else value < limit


def main() -> int:
    """Simulate and print; 1 if a gate passes too often where the truth does not."""
    (pairs, generator, started), limits = begin("gates_null", __doc__), Limits()
    heads = "gate", "n", "wrongly passed %", "control, by the value %", "passed well inside %"
    table = Table(f"the truth at the limit: {pairs:,} jobs a line", f"{'metric':22}", *heads)
    for name, gate, sizes, draw, excluded, inside in cases():
        for n in sizes:
            jobs = [draw(generator, n, excluded) for _ in range(pairs)]
            good = [draw(generator, n, inside) for _ in range(pairs // 5)]
            wrongly, by_value = (
                Rate(sum(way(gate, it) for it in jobs), pairs) for way in (passes, value_passes)
            )
            limits.false.append(wrongly)
            table.row(
                name,
                gate,
                n,
                wrongly,
                by_value,
                Rate(sum(passes(gate, it) for it in good), len(good)),
            )
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
