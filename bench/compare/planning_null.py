"""Do the planned questions have their power? `python bench/compare/planning_null.py [--pairs 4000] [--seed 0]`.

First a true difference comes on top of the disagreement of equal runs, whose rate is known: n questions are drawn, as
many as "about n would do" says, alone and as one of five comparisons of a table. Then a first sample of few questions
is drawn from equal runs, the plan is made from it, and new questions are drawn. For a margin the first sample counts
among the planned questions, and those are left out that have decided already; the control plans as if it did not
count. For a difference all questions are new; the control plans from the observed share of the first sample alone.
The range beside a plan has to hold the number that the true disagreement needs.
Jobs that stop early: a loss that their plan calls detectable, and as many questions as it names, in whole courses.
Last, log-likelihoods: normal ones, and the skewed differences of two quantizations of the embedded model, centred and
drawn again. Where fewer than two disagreements are expected in the first sample, only a lower power counts as a miss.
"""

from __future__ import annotations

import sys
from functools import cache
from statistics import median

import numpy as np
from likelihood_null import REAL_TEXTS, real_texts
from simulation import GOOD, Limits, Numbers, Rate, Table, begin

from runner_compare.statistics import (
    ALPHA,
    POWER,
    Finding,
    MarginVerdict,
    McNemarTest,
    SignFlipTest,
    decide_comparisons_with_holm,
)
from runner_compare.statistics.early_stop_plans import (
    find_early_stop_detectable_loss,
    plan_early_stopping_sample_size,
)
from runner_compare.statistics.early_stop_test import WITH_FINAL_TEST, EarlyStopPairs
from runner_compare.statistics.margins import compute_non_inferiority_sample_size
from runner_compare.statistics.planning import (
    compute_samples_to_detect_shift,
    estimate_disagreement_rate,
    plan_questions_to_detect,
)
from runner_compare.statistics.ratios import compute_ratio_standard_error
from runner_compare.statistics.sequential import Side
from runner_compare.statistics.stats import compute_exact_mcnemar_p_value, find_detectable_paired_difference

# disagreement, difference
KNOWN = [(0.0, 0.05), (0.02, 0.05), (0.1, 0.05), (0.1, 0.02), (0.2, 0.05), (0.4, 0.1)]
FAMILY = 5
# n, disagreement
FIRST = [(20, 0.02), (20, 0.05), (20, 0.1), (20, 0.2), (50, 0.05), (50, 0.1), (100, 0.05), (100, 0.2)]
# questions, disagreement, level
EARLY = [(1319, 0.1, 0.05), (500, 0.2, 0.05), (1319, 0.1, 0.05 / 3), (300, 0.05, 0.05)]
EARLY_MARGIN, COURSES = 0.02, 1_000
SIZE = 0.05  # the margin, and the difference to detect, after a first sample
TEXTS, FIRST_TEXTS, SHIFT = 600, 200, 0.004  # pairs; samples of a first pair; nats per token
SKEWED, FIRST_SKEWED = 500, (50, 200)  # pairs; samples of a first pair
ERRORS = 3.2  # the difference of skewed texts, in standard errors of 200 of them


@cache
def shows(wins: int, losses: int, n: int, comparisons: int, margin: float | None) -> bool:
    """Whether the verdict on a table is `worse`, or with a margin that the row is as good."""
    others = [McNemarTest(1, 1, n) for _ in range(comparisons - 1)]
    effect, *_ = decide_comparisons_with_holm(
        [McNemarTest(wins, losses, n), *others], {} if margin is None else {"accuracy": margin}
    )
    if margin is None:
        return effect.finding is Finding.worse
    return effect.verdict in GOOD


def drawn(generator: np.random.Generator, n: int, rate: float, difference: float = 0.0) -> tuple[int, int]:
    """Draw the wins and losses of n questions."""
    wins, losses, _ = generator.multinomial(
        n, [(rate - difference) / 2, (rate + difference) / 2, 1 - rate]
    ).tolist()
    return wins, losses


def known(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return how often a difference is detected if the disagreement is known."""
    title = f"a true difference on top of known disagreement, planned for {POWER:.0%}: {pairs:,} pairs a line"
    table, rates = (Table(title, "comparisons", "disagree", "difference", "questions", "detected %"), [])
    for comparisons in (1, FAMILY):
        for noise, difference in KNOWN:
            n = plan_questions_to_detect(noise, difference, ALPHA / comparisons)
            assert n is not None
            counts = (drawn(generator, n, noise + difference, difference) for _ in range(pairs))
            rates.append(Rate(sum(shows(*one, n, comparisons, None) for one in counts), pairs))
            table.row(comparisons, f"{noise:.0%}", f"{difference:.0%}", n, rates[-1])
    return rates


@cache
def plan(wins: int, losses: int, n: int, margin: bool, is_control: bool) -> int:
    """Return the planned questions after a first sample."""
    test = McNemarTest(wins, losses, n)
    if not is_control:
        needed = (test.plan_sample_size_for_margin if margin else test.plan_sample_size_to_detect)(
            SIZE, ALPHA
        )
    elif margin:
        needed = compute_non_inferiority_sample_size(SIZE, estimate_disagreement_rate(wins + losses, n))
    else:
        needed = plan_questions_to_detect((wins + losses) / n, SIZE)
    assert needed is not None
    return int(needed)


def after_a_first_sample(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print the rates of plans from a first sample; return those from two expected disagreements
    on, and others."""
    title = f"planned from a first sample, {100 * SIZE:.0f} points: {pairs:,} first samples a line"
    lines = Table(title, "first n", "disagree", "to be shown", "power of the plan %", "control %")
    many: list[Rate] = []
    few: list[Rate] = []
    for first, rate in FIRST:
        for margin in (True, False):
            powers = []
            for is_control in (False, True):
                hits = plans = 0
                for wins, losses in (drawn(generator, first, rate) for _ in range(pairs)):
                    if margin and (
                        shows(wins, losses, first, 1, SIZE)
                        or compute_exact_mcnemar_p_value(wins, losses) < ALPHA
                    ):
                        continue  # nothing has to be planned
                    plans += 1
                    n = plan(wins, losses, first, margin, is_control)
                    if margin:
                        more = drawn(generator, max(0, n - first), rate)
                        table = wins + more[0], losses + more[1]
                        n = max(n, first)
                    else:
                        table = drawn(generator, n, rate + SIZE, SIZE)
                    hits += shows(*table, n, 1, SIZE if margin else None)
                powers.append(Rate(hits, plans))
            what = "as good" if margin else "worse"
            lines.row(first, f"{rate:.0%}", what, *powers)
            (many if first * rate >= 2 else few).append(powers[0])
    return many, few


def ranges(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return how often the range that is printed beside a plan lacks the questions that
    the true disagreement needs."""
    title = f"the range of a plan, {100 * SIZE:.0f} points: {pairs:,} first samples a line"
    heads = ("first n", "disagree", "to be shown", "range misses truth %", "planned, of what is needed")
    lines, missed = Table(title, *heads), []
    for first, rate in FIRST:
        for margin in (True, False):
            outside, powers = 0, []
            for wins, losses in (drawn(generator, first, rate) for _ in range(pairs)):
                truth, (low, high), planned = needs_and_range(wins, losses, first, rate, margin)
                outside += not (low or 0) <= truth <= (high or truth)
                powers.append(planned / truth)
            missed.append(Rate(outside, pairs))
            shown = " to ".join(f"{share:.2f}" for share in np.quantile(powers, (0.05, 0.95)))
            lines.row(first, f"{rate:.0%}", "as good" if margin else "worse", missed[-1], shown)
    return missed


@cache
def needs_and_range(
    wins: int, losses: int, first: int, rate: float, margin: bool
) -> tuple[int, tuple[int | None, int | None], int]:
    """Return the questions that the true disagreement needs, the printed range, and the plan."""
    test = McNemarTest(wins, losses, first)
    if margin:
        truth = compute_non_inferiority_sample_size(SIZE, rate, observed_pairs=(wins, losses, first))
        between, planned = (
            test.estimate_sample_size_interval(SIZE, ALPHA),
            test.plan_sample_size_for_margin(SIZE, ALPHA),
        )
    else:
        truth = plan_questions_to_detect(rate, SIZE)
        between, planned = (
            test.estimate_detection_size_interval(SIZE, ALPHA),
            test.plan_sample_size_to_detect(SIZE, ALPHA),
        )
    assert truth is not None
    assert planned is not None
    return truth, between, planned


def of_early_stops(generator: np.random.Generator, courses: int) -> list[Rate]:
    """Print and return the power of jobs that stop early, by whole courses of their bets, with what
    is planned."""
    title = f"jobs that stop early, planned by their bets: {courses:,} courses a line"
    heads = (
        "questions",
        "disagree",
        "difference",
        "level",
        "to be shown",
        "power of the plan %",
        "for a single look %",
    )
    table, rates = Table(title, *heads), []
    for n, noise, level in EARLY:
        losses = (
            find_early_stop_detectable_loss(n, noise, level),
            find_detectable_paired_difference(n, noise, level),
        )
        assert None not in losses
        found = [
            Rate(sum(course(generator, n, noise, loss or 0.0, level)[0] for _ in range(courses)), courses)
            for loss in losses
        ]
        table.row(n, f"{noise:.0%}", f"{losses[0] or 0.0:.1%}", f"{level:.1%}", "worse", *found)
        fixed = compute_non_inferiority_sample_size(EARLY_MARGIN, noise, level)
        assert fixed is not None
        needed = plan_early_stopping_sample_size(EARLY_MARGIN, noise, level, fixed, True)
        assert needed is not None
        shown = [
            Rate(sum(course(generator, of, noise, 0.0, level)[1] for _ in range(courses)), courses)
            for of in (needed, fixed)
        ]
        table.row(needed, f"{noise:.0%}", f"{EARLY_MARGIN:.1%}", f"{level:.1%}", "as good", *shown)
        rates += [found[0], shown[0]]
    return rates


def course(
    generator: np.random.Generator, n: int, noise: float, loss: float, level: float
) -> tuple[bool, bool]:
    """Return whether n questions, each looked at, show that a job is worse, and that it is as
    good."""
    rate = noise + loss
    steps = generator.choice(3, size=n, p=[(rate - loss) / 2, (rate + loss) / 2, 1 - rate])
    pairs = EarlyStopPairs(level, EARLY_MARGIN, WITH_FINAL_TEST)
    for step in steps.tolist():
        pairs.add_pair(step != 1, step != 0)
    pairs.run_final_test()
    return pairs.decision is Side.worse, pairs.margin_decision is Side.better


def of_likelihoods(generator: np.random.Generator) -> list[Rate]:
    """Print and return the rates of log-likelihoods with as many samples as are said to be
    needed."""
    title = f"log-likelihoods, {SHIFT} nats a token, planned from {FIRST_TEXTS} samples: {TEXTS} pairs a line"
    table, rates = Table(title, "samples", "to be shown", "power of the plan %"), []

    def pair(n: int, shift: float) -> tuple[list[float], list[float]]:
        sizes = generator.integers(20, 80, n).astype(float)
        differences = generator.normal(0.0, 0.01 * np.sqrt(50 * sizes)) - shift * sizes
        return differences.tolist(), sizes.tolist()

    for margin in (True, False):
        hits, planned = 0, []
        for _ in range(TEXTS):
            n = compute_samples_to_detect_shift(
                compute_ratio_standard_error(*pair(FIRST_TEXTS, 0.0)), FIRST_TEXTS, SHIFT
            )
            assert n is not None
            planned.append(n)
            test = SignFlipTest(*pair(n, 0.0 if margin else SHIFT), "token")
            (effect,) = decide_comparisons_with_holm([test], {"log_likelihood": SHIFT} if margin else {})
            as_good = effect.verdict in (MarginVerdict.as_good, MarginVerdict.better)
            hits += as_good if margin else effect.finding is Finding.worse
        rates.append(Rate(hits, TEXTS))
        table.row(f"{median(planned):.0f}", "as good" if margin else "worse", rates[-1])
    return rates


def of_skewed_likelihoods(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print the rates of real, skewed differences with as many samples as are said to be needed.

    Return those that need most of them, and those of losses, which such a plan finds more often:
    texts that are far off are worse.
    """
    title = f"skewed log-likelihoods, planned from a first sample: {pairs:,} plans a line"
    table = Table(title, f"{'texts':10}", "first n", "samples", "to be shown", "power of the plan %")
    harder: list[Rate] = []
    easier: list[Rate] = []
    for name, (differences, tokens) in real_texts().items():
        shift = (
            ERRORS
            * compute_ratio_standard_error(differences.tolist(), tokens.tolist())
            * (REAL_TEXTS / 200) ** 0.5
        )

        def pair(
            n: int, moved: float, all_texts: tuple[Numbers, Numbers] = (differences, tokens)
        ) -> SignFlipTest:
            chosen = generator.integers(REAL_TEXTS, size=n)
            sizes = all_texts[1][chosen]
            return SignFlipTest((all_texts[0][chosen] + moved * sizes).tolist(), sizes.tolist(), "token")

        for first in FIRST_SKEWED:
            for what, moved in (("as good", 0.0), ("worse", -shift), ("better", shift)):
                hits, planned = 0, []
                for _ in range(pairs):
                    seen = pair(first, 0.0)
                    needs = (
                        seen.plan_sample_size_for_margin
                        if what == "as good"
                        else seen.plan_sample_size_to_detect
                    )
                    n = needs(shift, ALPHA)
                    assert n is not None
                    planned.append(n)
                    (effect,) = decide_comparisons_with_holm(
                        [pair(n, moved)], {"log_likelihood": shift} if what == "as good" else {}
                    )
                    as_good = effect.verdict in (MarginVerdict.as_good, MarginVerdict.better)
                    hits += as_good if what == "as good" else str(effect.finding) == what
                rate = Rate(hits, pairs)
                table.row(name, first, f"{median(planned):.0f}", what, rate)
                (easier if what == "worse" else harder).append(rate)
    return harder, easier


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("planning_null", __doc__, pairs=4_000), Limits()
    limits.planned += known(generator, pairs)
    many, few = after_a_first_sample(generator, pairs)
    limits.missed += ranges(generator, min(pairs, COURSES))
    limits.planned += [*many, *of_early_stops(generator, min(pairs, COURSES)), *of_likelihoods(generator)]
    harder, easier = of_skewed_likelihoods(generator, SKEWED)
    limits.planned += harder
    limits.powers += [*few, *easier]
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
