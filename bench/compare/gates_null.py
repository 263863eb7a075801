"""How often does a gate pass where the truth does not? `python bench/compare/gates_null.py [--pairs 1000]`.

Each job has a metric of which the truth is known and just what `--require` excludes, or is well inside the limit. The
gates are runner-compare's own. Metrics: an accuracy, the percentile of a divergence over texts (ordinary ones, and with
a rare kind that has the tail), a speed over runs, and what few and skewed texts say: perplexity, mean KL and shares of
tokens. Texts are lognormal, or those of the embedded model, drawn again with repetition. One control reads the measured
value alone; the other one, of texts, takes Student's interval over them. A gate may pass 2.5 %.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from likelihood_null import embedded_texts, lengths
from runs_null import SHAPES, errors
from simulation import Limits, Numbers, Rate, Table, begin

from runner_base import Likelihood
from runner_compare.features.gates.section import Requirements, check_requirements_on_runs, parse_requirements
from runner_compare.metrics import KL_SHARES
from runner_compare.model.data import Run, TableRow
from runner_compare.model.data import Table as Compared
from runner_compare.statistics.likelihoods import compute_likelihood_metrics
from runner_compare.statistics.ratios import compute_ratio_standard_error, ratio_of_sums
from runner_compare.statistics.stats import ALPHA, compute_student_quantile
from runner_compare.statistics.token_percentiles import TokenValues

Generator = np.random.Generator
# a job of so many questions, texts or runs with such a truth
Draw = Callable[[Generator, int, float], Run]
# the name, the gate, the sizes, what draws, the truth that is just excluded, and one well inside
Case = tuple[str, str, tuple[int, ...], Draw, float, float]
Texts = Callable[[Generator, int], tuple[Numbers, Numbers]]  # nats and tokens of so many texts
TOKENS, FARTHER = 40, 150
TEXTS = (6, 10, 20, 50, 100, 200)
SPREADS = (0.5, 1.0, 1.5)  # sigma of lognormal texts: their skewness is 1.8, 6.2 and 33
SKEWED = SPREADS[1]  # of the other metrics
REAL_TEXTS = 1000
ALIKE = 0.2  # tokens of a text agree together: the smaller, the more they do
STUDENT = "student_"
SHARES_OF_TOKENS = ("rank_1_share", "top_1_agreement")


def run_of(metrics: dict[str, float]) -> Run:
    return Run("run", "run", "any", "1", "", {}, metrics)


def accuracy(generator: Generator, n: int, truth: float) -> Run:
    """Draw the verdicts of a job."""
    correct = float(generator.binomial(n, truth))
    return run_of({"n": float(n), "correct": correct, "accuracy": correct / n})


def divergence(rare: float, key: str) -> Draw:
    """Return what draws jobs of texts of which a share is farther off; the truth is the scale of
    the others."""
    share = KL_SHARES[key]
    many = np.random.default_rng(1).normal(0, 0.3, 400_000) + np.random.default_rng(2).normal(0, 1, 400_000)
    kinds = np.where(np.arange(400_000) < rare * 400_000, FARTHER, 1)
    # the percentile of texts whose scale is 1
    unit = float(np.quantile(kinds * np.exp(many), share))

    def draw(generator: Generator, n: int, truth: float) -> Run:
        scales = (
            truth
            / unit
            * np.where(generator.random(n) < rare, FARTHER, 1)
            * np.exp(generator.normal(0, 0.3, n))
        )
        values = TokenValues((scales[:, None] * np.exp(generator.normal(0, 1, (n, TOKENS)))).tolist())
        ends = values.compute_interval(share)
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


def lognormal_texts(spread: float) -> Texts:
    """Return what draws texts of unequal length, of 1 nat a token in the mean."""

    def draw(generator: Generator, n: int) -> tuple[Numbers, Numbers]:
        tokens = lengths(generator, n)
        return tokens * np.exp(generator.normal(-(spread**2) / 2, spread, n)), tokens

    return draw


def texts_again(real: Numbers) -> Texts:
    """Return what draws from real texts [nats, tokens], scaled to 1 nat a token in the mean."""
    nats, tokens = real.T
    scale = tokens.sum() / nats.sum()

    def draw(generator: Generator, n: int) -> tuple[Numbers, Numbers]:
        chosen = generator.integers(len(real), size=n)
        return scale * nats[chosen], tokens[chosen]

    return draw


def text_job(key: str, texts: Texts) -> Draw:
    def draw(generator: Generator, n: int, truth: float) -> Run:
        parts, tokens = texts(generator, n)
        counts = tokens.astype(int)
        if key in SHARES_OF_TOKENS:
            chances = generator.beta(truth * ALIKE, (1 - truth) * ALIKE, n)
            nats, agreed = parts, generator.binomial(counts, chances)
        else:
            nats, agreed = parts * (math.log(truth) if key == "perplexity" else truth), counts
        job = compute_likelihood_metrics(
            [
                Likelihood(
                    unit, -nats[unit], size, size, size, int(agreed[unit]),
                    kl_nats=nats[unit], truncation_nats=0.0, top_1_agreed=int(agreed[unit]),
                )
                for unit, size in enumerate(counts.tolist())
            ]
        )  # fmt: skip
        sums = (agreed if key in SHARES_OF_TOKENS else nats).tolist()
        ends = student_ends(sums, tokens.tolist())
        low, high = map(math.exp, ends) if key == "perplexity" else ends
        return run_of(job | {f"{STUDENT}{key}_low": low, f"{STUDENT}{key}_high": high})

    return draw


def student_ends(sums: Sequence[float], sizes: Sequence[float]) -> tuple[float, float]:
    """Return Student's interval of a ratio over texts: a control."""
    half = compute_student_quantile(ALPHA, len(sums) - 1) * compute_ratio_standard_error(sums, sizes)
    return ratio_of_sums(sums, sizes) - half, ratio_of_sums(sums, sizes) + half


def text_cases(real: Numbers | None) -> Iterator[Case]:
    """Return the cases of few and skewed texts; None: without the real ones, which take a model."""
    kinds = {f"spread {spread}": lognormal_texts(spread) for spread in SPREADS}
    if real is not None:
        kinds["embedded model"] = texts_again(real)
    for name, texts in kinds.items():
        job = text_job("perplexity", texts)
        yield f"perplexity, {name}", "perplexity<1.5", TEXTS, job, 1.5, math.sqrt(1.5)
    skewed, kl = lognormal_texts(SKEWED), "kl_nats_per_token"
    yield f"KL, spread {SKEWED}", f"{kl}<0.02", TEXTS, text_job(kl, skewed), 0.02, 0.01
    for key in SHARES_OF_TOKENS:
        yield key, f"{key}>0.95", TEXTS, text_job(key, skewed), 0.95, 0.99


def cases() -> Iterator[Case]:
    """Return the cases of questions, percentiles and runs."""
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
            yield (f"{short}, {name}", f"{short}<0.02nats", (50, 200, 600), divergence(rare, key), 0.02, 0.01)
    for shape in SHAPES:
        yield f"speed, {shape}", "decode_tok_per_s>100", (1, 3, 6, 10), speed(shape), 100.0, 120.0


def passes(gate: str, run: Run) -> bool:
    table = Compared("any", [], [TableRow(run, {})])
    check_requirements_on_runs([table], parse_requirements([gate], [run]))
    return all(it.met for it in table.get_section_data(Requirements).of_rows)


def value_passes(gate: str, run: Run) -> bool:
    """Whether the measured value alone does."""
    (term,) = parse_requirements([gate], [run])
    value, limit = run.metrics[term.key], float(term.value)
    return value > limit if term.sign == ">" else value < limit


def student_passes(gate: str, run: Run) -> bool:
    """Whether Student's interval over texts does, as before."""
    (term,) = parse_requirements([gate], [run])
    end = "low" if term.sign == ">" else "high"
    return value_passes(gate, run_of({term.key: run.metrics[f"{STUDENT}{term.key}_{end}"]}))


def simulate(
    generator: Generator, pairs: int, chosen: Iterator[Case], limits: Limits
) -> list[tuple[str, int, Rate, Rate]]:
    """Print a line for each case and size; return its name and size, how often it passes wrongly,
    and how often by Student's interval."""
    heads = (
        "gate",
        "n",
        "wrongly passed %",
        "by the value %",
        "by Student's, before %",
        "passed well inside %",
        "before",
    )
    table = Table(f"the truth at the limit: {pairs:,} jobs a line", f"{'metric':28}", *heads)
    lines = []
    for name, gate, sizes, draw, excluded, inside in chosen:
        for n in sizes:
            jobs = [draw(generator, n, excluded) for _ in range(pairs)]
            good = [draw(generator, n, inside) for _ in range(-(-pairs // 5))]
            is_of_texts = any(key.startswith(STUDENT) for key in jobs[0].metrics)
            wrongly, by_value = (
                Rate(sum(way(gate, it) for it in jobs), pairs) for way in (passes, value_passes)
            )
            of_good = [Rate(sum(passes(gate, it) for it in good), len(good))]
            before = Rate(0, pairs)
            if is_of_texts:
                before = Rate(sum(student_passes(gate, it) for it in jobs), pairs)
                of_good.append(Rate(sum(student_passes(gate, it) for it in good), len(good)))
            limits.gates.append(wrongly)
            control, good_before = (before, of_good[1].plain) if is_of_texts else ("", "")
            table.row(name, gate, n, wrongly, by_value, control, of_good[0], good_before)
            lines.append((name, n, wrongly, before))
    return lines


def main() -> int:
    """Simulate and print; 1 if a gate passes too often where the truth does not."""
    (pairs, generator, started), limits = begin("gates_null", __doc__, 1000), Limits()
    (real,) = embedded_texts(f"quantization=none task.limit={REAL_TEXTS}", "nats", "tokens")
    simulate(generator, pairs, text_cases(real), limits)
    simulate(generator, pairs, cases(), limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
