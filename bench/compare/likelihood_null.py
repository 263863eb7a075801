"""How often is a comparison of likelihoods wrong? `python bench/compare/likelihood_null.py [--pairs 300] [--seed 0]`.

First, few and skewed texts: the differences of two quantizations of the embedded model from plain weights on 250 texts,
centred and drawn again with repetition, and exponential and lognormal parts without any noise around them, in both
directions. Then the tails: the interval of a job's KL over the embedded model's own texts (nf4 and int8) and lognormal
ones, and lognormal differences of texts of unequal length, each beside the rule of before. A rare kind of text, which
often no sample shows, is not counted: no rule can hold there.

Last, two runs score the same texts of unequal length. A text's difference is its tokens times a part of its own, whose
mean is 0 under the null, plus noise of each token. Parts are normal, skewed (exponential), lopsided (lognormal), heavy
(Student's t of 3), or larger in longer texts. Then all parts are moved by the difference that so many texts should
show, in alternating directions. The verdicts are runner-compare's own, from samples to finding.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence

import numpy as np
from simulation import Drawn, Limits, Numbers, Rate, Table, begin

from runner_base import Likelihood
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_compare.model.data import NotPaired, Run, TableRow, TextScore
from runner_compare.statistics import ALPHA, CAUTION, Finding, SignFlipTest, decide_comparisons_with_holm
from runner_compare.statistics.likelihoods import compute_likelihood_metrics
from runner_compare.statistics.ratios import compute_ratio_standard_error, get_p_value_factor, ratio_of_sums
from runner_compare.statistics.stats import compute_student_quantile
from runner_compare.ways import PairingOptions, compare_runs
from tools.commands import samples_of

FEW = (10, 20, 50, 100)
TAILS = (50, 60, 100, 200)  # texts
SIGMAS = (1.0, 1.5)  # of lognormal parts
KL_DRAWS, DIFFERENCE_DRAWS = 4, 16  # of the tails, times the pairs
# of the texts; how many standard deviations of the others they are away
RARE, RARE_SIZES = (0.02, (10, 30))
RARE_KL = 20  # times the KL of the other texts
REAL_TEXTS = 250
SAMPLES = (50, 200)
SPREAD = 0.003  # of a text's own part, in nats a token: as of 4-bit weights of the embedded model
NOISE = 0.02  # of a single token
FAMILY = 3  # comparisons of one table with one baseline


def normal(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return symmetric parts."""
    return generator.standard_normal(len(tokens))


def skewed(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return parts of mean 0 of which a few are far below."""
    return 1.0 - generator.exponential(size=len(tokens))


def lopsided(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return parts of mean 0 of which very few are very far below: lognormal, with a skewness of
    6."""
    drawn: Numbers = (np.e**0.5 - generator.lognormal(size=len(tokens))) / (np.e**2 - np.e) ** 0.5
    return drawn


def heavy(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return parts with outliers on both sides."""
    drawn: Numbers = generator.standard_t(3, size=len(tokens)) / 3**0.5
    return drawn


def longer(generator: np.random.Generator, tokens: Numbers) -> Numbers:
    """Return parts that are larger in longer texts."""
    drawn: Numbers = generator.standard_normal(len(tokens)) * tokens / tokens.mean()
    return drawn


KINDS: dict[str, Callable[[np.random.Generator, Numbers], Numbers]] = {
    "normal": normal, "skewed": skewed, "lopsided": lopsided, "heavy": heavy, "longer": longer,
}  # fmt: skip


def table(generator: np.random.Generator, samples: int, kind: str, moved: Sequence[float]) -> list[TableRow]:
    """Draw a baseline and runs with these shifts, and compare each with the baseline like one
    table."""
    tokens = lengths(generator, samples)
    common, nats_by_run = -generator.gamma(2.0, 0.1, samples) * tokens, []
    for number, shift in enumerate((0.0, *moved)):
        own = SPREAD * KINDS[kind](generator, tokens) + shift if number else np.zeros(samples)
        noise = NOISE * np.sqrt(tokens) * generator.standard_normal(samples) * (number > 0)
        nats_by_run.append(common + own * tokens + noise)
    return verdicts(nats_by_run, tokens)


def verdicts(nats_by_run: Sequence[Numbers], tokens: Numbers) -> list[TableRow]:
    """Compare all runs over texts with so many tokens with the first one, like one table; no rows
    for too few texts."""
    reader, runs = Drawn(), []
    for number, nats in enumerate(nats_by_run):
        name = f"run-{number}"
        runs.append(
            Run(name, name, "likelihood", "1", "", {}, {LOG_LIKELIHOOD: float(nats.sum() / tokens.sum())})
        )
        parts = zip(nats.tolist(), tokens.astype(int).tolist(), strict=True)
        reader.of_texts[name] = {
            unit: TextScore(
                ("question", "gold"), "prompt", (), Likelihood(unit, value, count, count, count, 0)
            )
            for unit, (value, count) in enumerate(parts)
        }
    try:
        compared = [it for run in runs[1:] for it in compare_runs(run, runs[0], reader, PairingOptions())]
    except NotPaired:
        return []
    return [
        TableRow(run, {}, effects=[it])
        for run, it in zip(runs[1:], decide_comparisons_with_holm(compared), strict=True)
    ]


def claims(rows: Sequence[TableRow]) -> bool:
    """Whether a table calls any run different."""
    return any(it.finding is not Finding.open for row in rows for it in row.effects)


def rates(
    generator: np.random.Generator, samples: int, kind: str, pairs: int, runs: int
) -> tuple[Rate, float, Rate]:
    """Return the rate of false positives, the median minimum detectable difference, and the power
    at it."""
    nulls = [table(generator, samples, kind, [0.0] * runs) for _ in range(pairs)]
    detectable_differences = [it.detectable or 0.0 for rows in nulls for row in rows for it in row.effects]
    least = statistics.median(detectable_differences)
    true_verdicts = 0
    for number in range(pairs):
        sign, finding = ((1, Finding.better), (-1, Finding.worse))[number % 2]
        it = table(generator, samples, kind, [sign * least, *[0.0] * (runs - 1)])[0].effect
        true_verdicts += it is not None and it.finding is finding
    return Rate(sum(map(claims, nulls)), pairs), least, Rate(true_verdicts, pairs)


def embedded_texts(options: str, *fields: str) -> list[Numbers]:
    """Score texts with the embedded model in several jobs; return these fields of each job's
    texts."""
    jobs = samples_of(f"task=likelihood {options}")
    return [
        np.array([[text["likelihood"][it] for it in fields] for text in job], dtype=np.float64)
        for job in jobs
    ]


def real_texts() -> dict[str, tuple[Numbers, Numbers]]:
    """Score texts with three quantizations of the embedded model; return centred differences, and
    tokens, by name."""
    scored = embedded_texts(f"quantization=none,nf4,fp4 task.limit={REAL_TEXTS}", "nats", "tokens")
    centred = {}
    for name, run in zip(("nf4", "fp4"), scored[1:], strict=True):
        differences, tokens = run[:, 0] - scored[0][:, 0], run[:, 1]
        centred[f"{name} − none"] = differences - differences.sum() / tokens.sum() * tokens, tokens
    return centred


def drawn_differences(
    generator: np.random.Generator, kind: str, samples: int, real: dict[str, tuple[Numbers, Numbers]]
) -> tuple[Numbers, Numbers]:
    """Return the differences of texts between two equal runs in nats, skewed to the left, and their
    tokens."""
    if kind in real:
        chosen = generator.integers(REAL_TEXTS, size=samples)
        return real[kind][0][chosen], real[kind][1][chosen]
    tokens = lengths(generator, samples)
    return SPREAD * KINDS[kind](generator, tokens) * tokens, tokens


def few_and_skewed(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print and return the rates of false verdicts, and of intervals that miss the truth."""
    real, nulls, missed = real_texts(), list[Rate](), list[Rate]()
    for name, (differences, _) in real.items():
        skewness = float(((differences - differences.mean()) ** 3).mean() / differences.std() ** 3)
        print(f"\n{REAL_TEXTS} real texts, {name}: skewness {skewness:.1f}", end="")
    heads = "n", "differences", "verdicts", "false verdicts %", "interval misses truth %"
    table = Table(f"few and skewed texts: {pairs:,} equal pairs a line", *heads)
    for samples in FEW:
        for kind in (*real, "skewed", "lopsided"):
            for sign in (1,) if kind in real else (1, -1):
                claims_of, false, outside = 0, 0, 0
                for _ in range(pairs):
                    differences, tokens = drawn_differences(generator, kind, samples, real)
                    rows = verdicts([-tokens, -tokens + sign * differences], tokens)
                    claims_of += bool(rows)
                    false += claims(rows)
                    # far from 0, where no interval is widened to it
                    truth = float(differences.std() / tokens.mean())
                    rows = verdicts([-tokens, -tokens + sign * (differences + truth * tokens)], tokens)
                    outside += any(
                        not it.low <= sign * truth <= it.high for row in rows for it in row.effects
                    )
                nulls.append(Rate(false, pairs))
                missed.append(Rate(outside, pairs))
                name = kind if kind in real else f"{kind} {'+-'[sign > 0]}"
                table.row(samples, name, f"{claims_of / pairs:.0%}", nulls[-1], missed[-1])
    return nulls, missed


def real_divergences() -> dict[str, tuple[Numbers, Numbers]]:
    """Return the KL of each text of the embedded model's own jobs in nats, and the texts' tokens,
    by quantization."""
    names = "int8", "nf4"
    keys = f"quantization={','.join(names)} task.reference=quantization=none task.exact=true task.limit={max(TAILS)}"
    scored = embedded_texts(keys, "kl_nats", "tokens")
    return {name: (job[:, 0], job[:, 1]) for name, job in zip(names, scored, strict=True)}


def lengths(generator: np.random.Generator, samples: int) -> Numbers:
    """Return the tokens of texts of unequal length."""
    drawn: Numbers = np.clip(generator.lognormal(4.2, 0.5, samples), 5, 500).round()
    return drawn


def kl_misses(divergences: Numbers, tokens: Numbers, truth: float) -> tuple[bool, bool]:
    """Whether the interval of such a job misses the true KL a token, and whether Student's does."""
    counts = tokens.astype(int).tolist()
    texts = [
        Likelihood(unit, -1.0, count, count, count, 0, kl_nats=kl, truncation_nats=0.0, top_1_agreed=0)
        for unit, (kl, count) in enumerate(zip(divergences.tolist(), counts, strict=True))
    ]
    job_figures = compute_likelihood_metrics(texts)
    low, high = (job_figures[f"kl_nats_per_token_{end}"] for end in ("low", "high"))
    sums, sizes = divergences.tolist(), tokens.tolist()
    half = compute_student_quantile(ALPHA, len(sums) - 1) * compute_ratio_standard_error(sums, sizes)
    return not low <= truth <= high, abs(ratio_of_sums(sums, sizes) - truth) > half


def kl_intervals(
    generator: np.random.Generator, draws: int, real: dict[str, tuple[Numbers, Numbers]]
) -> list[Rate]:
    """Print and return how often the interval of a job's KL misses the truth."""
    heads = "n", f"{'texts':>22}", "interval misses truth %", "Student's alone, before: %"
    table, rates = Table(f"KL of a job: {draws:,} jobs a line", *heads), []
    for samples in TAILS:
        for name in (*real, *map(str, SIGMAS)):
            missed = []
            for _ in range(draws):
                if name in real:
                    divergences, tokens = real[name]
                    chosen = generator.integers(len(tokens), size=samples)
                    truth = float(divergences.sum() / tokens.sum())
                    missed.append(kl_misses(divergences[chosen], tokens[chosen], truth))
                else:
                    tokens, truth, sigma = lengths(generator, samples), 0.001, float(name)
                    parts = generator.lognormal(0, sigma, samples) / np.exp(sigma * sigma / 2)
                    missed.append(kl_misses(truth * parts * tokens, tokens, truth))
            now, before = (Rate(sum(which), draws) for which in zip(*missed, strict=True))
            table.row(samples, f"real, {name}" if name in real else f"lognormal, sigma = {name}", now, before)
            rates.append(now)
    return rates


def called_different(differences: Numbers, tokens: Numbers) -> tuple[bool, bool]:
    """Whether equal runs are called different, and whether they were with twice the larger p for
    any number."""
    it = SignFlipTest(differences.tolist(), tokens.tolist(), "token")
    return it.effect.p < ALPHA, it.effect.p < ALPHA * get_p_value_factor(len(tokens)) / CAUTION


def lognormal_differences(generator: np.random.Generator, draws: int) -> list[Rate]:
    """Print and return how often equal runs are called different by lognormal differences of
    unequal texts."""
    heads = "n", "sigma", "false verdicts %", "twice for any n, before: %"
    table, rates = Table(f"lognormal differences: {draws:,} equal pairs a line", *heads), []
    for samples in TAILS:
        for sigma in SIGMAS:
            claimed = []
            for _ in range(draws):
                tokens = lengths(generator, samples)
                parts = np.exp(sigma**2 / 2) - generator.lognormal(0, sigma, samples)
                claimed.append(called_different(SPREAD * parts * tokens, tokens))
            now, before = (Rate(sum(which), draws) for which in zip(*claimed, strict=True))
            table.row(samples, sigma, now, before)
            rates.append(now)
    return rates


def rare_kinds(generator: np.random.Generator, draws: int) -> None:
    """Print what a kind of text does that few or none of the samples show; no rule can hold
    there."""
    title = f"{RARE:.0%} of all texts are of another kind (not counted): {draws:,} pairs a line"
    table = Table(title, "n", "seen", f"{'they are':>21}", "wrong verdicts or intervals %")
    for samples in (*TAILS[:1], *TAILS[2:], 300):
        seen = f"{1 - (1 - RARE) ** samples:.0%}"
        for size in RARE_SIZES:
            claimed = []
            for _ in range(draws):
                tokens, is_rare = lengths(generator, samples), generator.random(samples) < RARE
                parts = generator.standard_normal(samples) + size * (is_rare - RARE)
                claimed.append(called_different(SPREAD * parts * tokens, tokens)[0])
            table.row(samples, seen, f"{size} sd away", Rate(sum(claimed), draws))
        missed = []
        for _ in range(draws):
            tokens, is_rare = lengths(generator, samples), generator.random(samples) < RARE
            parts = (
                np.where(is_rare, RARE_KL, 1)
                * generator.exponential(size=samples)
                / (1 + RARE * (RARE_KL - 1))
            )
            missed.append(kl_misses(0.001 * parts * tokens, tokens, 0.001)[0])
        table.row(samples, seen, f"{RARE_KL} times as divergent", Rate(sum(missed), draws))


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("likelihood_null", __doc__), Limits()
    limits.false, limits.missed = few_and_skewed(generator, pairs)
    limits.missed += kl_intervals(generator, KL_DRAWS * pairs, real_divergences())
    limits.false += lognormal_differences(generator, DIFFERENCE_DRAWS * pairs)
    rare_kinds(generator, KL_DRAWS * pairs)
    for runs, kinds in ((1, list(KINDS)), (FAMILY, ["normal", "skewed"])):
        heads = "n", "parts", "any false verdict %", "says ≥ nats/token", "true verdicts %"
        lines = Table(
            f"{runs} run{'s' * (runs > 1)} against one baseline: {pairs:,} tables a line and side", *heads
        )
        for samples in SAMPLES:
            for kind in kinds:
                null, least, power = rates(generator, samples, kind, pairs, runs)
                lines.row(samples, kind, null, f"{least:.5f}", power)
                limits.false.append(null)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
