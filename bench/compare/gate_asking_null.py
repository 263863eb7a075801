"""How does asking until decided end? `python bench/compare/gate_asking_null.py [--pairs 100]`.

A candidate answers up to 4,000 questions with `task.early_stop_vs` and `task.early_stop_margin=2`, and
stops when its verdict is decided: the product's anytime-valid test, looked at after each question, and
the final test of all questions. The truth is known. Beside it, a test with a fixed number of questions
(1,500), and a fixed threshold on these: fail if the accuracy is more than 2 points lower. Stated: identical
models end in NO-GO at most 5 %; a loss of exactly the margin is GO at most 2.5 %. How many end in ASK depends
on the disagreement. A second table: losses of 1, 2 and 5 points at the planned number of questions.
"""

from __future__ import annotations

import sys

import numpy as np
from gate_nights_null import verdict_of
from simulation import Limits, Rate, Table, begin

from runner_compare.model.interim_comparison import InterimComparison
from runner_compare.release_gate.verdicts import GateVerdict
from runner_compare.statistics import Finding, McNemarTest, decide_comparisons_with_holm
from runner_compare.statistics.planning import plan_questions_to_detect
from runner_compare.statistics.sequential import Side

LIMIT, FIXED, MARGIN = 4000, 1500, 0.02
# the share of questions on which both runs disagree, and the true difference
SETTINGS = [
    *((share, 0.0) for share in (0.02, 0.04, 0.08)),
    *((share, -MARGIN) for share in (0.04, 0.08)),
    *((0.08, difference) for difference in (-0.01, -0.04, -0.05)),
]


def ask(generator: np.random.Generator, share: float, difference: float) -> tuple[GateVerdict, int]:
    """Ask until decided. Return the verdict and the number of questions."""
    test = InterimComparison(margin=MARGIN)
    kinds = generator.choice(3, size=LIMIT, p=[(share + difference) / 2, (share - difference) / 2, 1 - share])
    for number, kind in enumerate(kinds.tolist(), 1):
        test.add_pair(kind != 1, kind != 0, False, False)
        decided = test.margin_decision
        if decided is not Side.open:
            return (GateVerdict.go if decided is Side.better else GateVerdict.no_go), number
    test.run_final_test()
    return {Side.better: GateVerdict.go, Side.worse: GateVerdict.no_go}.get(
        test.margin_decision, GateVerdict.ask
    ), LIMIT


def rates(
    generator: np.random.Generator, pairs: int, share: float, difference: float
) -> tuple[dict[GateVerdict, Rate], float, dict[GateVerdict, Rate], Rate]:
    """Return the rates of verdicts when asking until decided, the mean number of questions, the rates
    with a fixed number, and how often a fixed threshold fails."""
    ended = [ask(generator, share, difference) for _ in range(pairs)]
    chances = [(share + difference) / 2, (share - difference) / 2, 1 - share]
    tables = generator.multinomial(FIXED, chances, size=pairs)[:, :2].tolist()
    fixed = [verdict_of(*table, FIXED, None) for table in tables]
    threshold = sum(wins - losses < -MARGIN * FIXED for wins, losses in tables)
    asked = {verdict: Rate(sum(got is verdict for got, _ in ended), pairs) for verdict in GateVerdict}
    at_once = {verdict: Rate(fixed.count(verdict), pairs) for verdict in GateVerdict}
    return asked, float(np.mean([number for _, number in ended])), at_once, Rate(threshold, pairs)


def find_planted_losses(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print how often a loss is found with as many questions as its plan names."""
    title = f"losses at the planned number of questions: {pairs:,} candidates a line"
    table = Table(title, "disagree", "truth", "questions", "found %", "called better")
    for share in (0.02, 0.04, 0.08):
        for loss in (0.01, 0.02, 0.05):
            questions = plan_questions_to_detect(share, loss)
            assert questions is not None
            chances = [share / 2, share / 2 + loss, 1 - share - loss]
            found = [
                decide_comparisons_with_holm([McNemarTest(wins, losses, questions)])[0].finding
                for wins, losses, _ in generator.multinomial(questions, chances, size=pairs).tolist()
            ]
            worse, better = (Rate(found.count(of), pairs) for of in (Finding.worse, Finding.better))
            limits.powers.append(worse)
            table.row(f"{share:.0%}", f"{-100 * loss:+g}", f"{questions:,}", worse, better.plain)


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("gate_asking_null", __doc__, pairs=100), Limits()
    table = Table(
        f"up to {LIMIT:,} questions, margin {100 * MARGIN:g} points: {pairs:,} candidates a line",
        *(
            "disagree",
            "truth",
            "GO %",
            "NO-GO %",
            "ASK %",
            "questions",
            "fixed: GO",
            "ASK",
            "NO-GO",
            "threshold fails",
        ),
    )
    go, ask_more, no_go = GateVerdict.go, GateVerdict.ask, GateVerdict.no_go
    for share, difference in SETTINGS:
        asked, questions, fixed, threshold = rates(generator, pairs, share, difference)
        if difference == 0:
            limits.false.append(asked[no_go])
        if difference == -MARGIN:
            limits.gates.append(asked[go])
        table.row(
            f"{share:.0%}", f"{100 * difference:+g}", asked[go], asked[no_go], asked[ask_more], f"{questions:,.0f}",
            *(fixed[verdict].plain for verdict in (go, ask_more, no_go)), threshold.plain,
        )  # fmt: skip
    find_planted_losses(generator, pairs, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
