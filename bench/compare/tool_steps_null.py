"""How often is a comparison of steps of calls wrong? `python bench/compare/tool_steps_null.py [--tables 1000]`.

The questions and reactions to functions of tools_null.py. Steps of a call: how often is any step of equal settings
called different? If one setting chooses wrong functions more often, how often is that found, and is anything said of a
step that lost nothing? Lengths: how often are the longer contexts of one setting called better or worse although they
change nothing, and how often is a longer context found that helps? The control is the same. All pairs of a line are
tested in arrays. The first tables of each line are tested again as runner-compare does it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
from cluster_skewed import NEAR
from simulation import NORMAL, Drawn, Limits, Numbers, Rate, Solved, Table, begin
from tools_null import ALIKE, CATEGORIES, LOSSES_OF_ALL, SHARES, PartTest, Questions, outcome_of, run_of

from runner_base.tool_outcomes import RIGHT, STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.features.tool_calls.pairs import (
    compare_tool_calls_by_context_length,
    split_answers_by_tool_call_step,
)
from runner_compare.model.outcomes import Answers, QuestionOutcome, ToolCase
from runner_compare.statistics import ALPHA, Decision, Finding, decide_comparisons_with_holm
from runner_compare.statistics.stats import holm_adjust
from runner_compare.ways.verdicts import compare_answers

# of the answers that took the step before, so many take this one
STEP_CHANCES = {"well_formed": 0.95, "right_tool": 0.9, "right_arguments": 0.85}
FAILED_AT = (ToolOutcome.malformed, ToolOutcome.wrong_tool, ToolOutcome.wrong_arguments)
WORSE_STEP = "right_tool"  # where the last setting fails more often
LATER = ("right_tool", "right_arguments")  # the steps that lose by this
STEP_SETTINGS = 3  # the baseline and two others
COMPARED_LENGTHS = (2048, 4096, 8192)  # only the last one helps
CHECKED = 2  # tables of a line that are tested again by the product


def findings_of(
    tests: Mapping[tuple[int, str | int], PartTest], alone: bool = False
) -> dict[tuple[int, str | int], tuple[Numbers, Numbers]]:
    """Return the sign of each finding in each table (0: none is said) and its p by Holm: all
    comparisons of a table share one error."""
    ps = np.array([test.alone if alone else test.by_functions for test in tests.values()])
    adjusted = np.array([holm_adjust(column) for column in ps.T.tolist()]).T
    return {
        place: (np.where(own < ALPHA, np.sign(test.difference), 0.0), own)
        for (place, test), own in zip(tests.items(), adjusted, strict=True)
    }


def check_findings(
    findings: Mapping[tuple[int, str | int], tuple[Numbers, Numbers]],
    table: int,
    decisions: Mapping[tuple[int, str | int], Decision],
) -> None:
    """Check that the product finds the same, unless p is near the level: signs are flipped by chance."""
    assert findings.keys() == decisions.keys()
    signs = {Finding.better: 1, Finding.worse: -1, Finding.open: 0}
    for place, decision in decisions.items():
        sign, p = (values[table] for values in findings[place])
        assert signs[decision.finding] == sign or abs(p - ALPHA) < NEAR, (place, p, decision.p)


def taken_steps(
    questions: Questions, generator: np.random.Generator, tables: int, share: float, loss: float
) -> dict[str, Solved]:
    """Draw which answers take each step [settings, tables, questions]. The last setting fails more often at one."""
    taken: dict[str, Solved] = {}
    reached = np.array(True)
    for step, chance in STEP_CHANCES.items():
        bars = [NORMAL.inv_cdf(chance)] * (STEP_SETTINGS - 1)
        bars.append(NORMAL.inv_cdf(chance - loss * (step == WORSE_STEP)))
        drawn = questions.difficulties(generator, share, ALIKE[0], (STEP_SETTINGS, tables))
        reached = reached & (drawn < np.array(bars)[:, None, None])
        taken[step] = reached
    taken[WITHOUT_NEED] = taken["well_formed"]
    return taken


def step_decisions(
    questions: Questions, taken: Mapping[str, Solved], table: int
) -> dict[tuple[int, str | int], Decision]:
    """Compare the settings of a table with the first one at each step, as runner-compare does."""
    answers: list[Answers] = []
    for setting in range(STEP_SETTINGS):
        own: Answers = {}
        for index, case in enumerate(questions.cases):
            steps = [bool(taken[step][setting, table, index]) for step in STEPS]
            outcome = (
                (ToolOutcome.right if all(steps) else FAILED_AT[steps.index(False)])
                if case.wanted
                else (ToolOutcome.nothing_called if steps[0] else ToolOutcome.called_without_need)
            )
            place = ToolCase(case.category, 0, outcome)
            own[index, case.question, case.gold] = QuestionOutcome(
                outcome in RIGHT, "prompt", case.main_function_name, tools=place
            )
        answers.append(own)
    runs = [run_of(f"setting {number}", own) for number, own in enumerate(answers)]
    compared = {
        (number, step): compare_answers(runs[number], runs[0], sides, Drawn())
        for number in range(1, STEP_SETTINGS)
        for step, sides in split_answers_by_tool_call_step(answers[number], answers[0]).items()
    }
    return dict(zip(compared, decide_comparisons_with_holm(list(compared.values())), strict=True))


def simulate_steps(
    questions: Questions, generator: np.random.Generator, tables: int, share: float, loss: float
) -> tuple[tuple[Rate, Rate], tuple[Rate, Rate]]:
    """Return how often anything is wrongly said of a step, and how often the loss is found at its
    step; each by functions and by single questions."""
    taken = taken_steps(questions, generator, tables, share, loss)
    tests: dict[tuple[int, str | int], PartTest] = {
        (number, step): questions.test(
            solved[number],
            solved[0],
            ~questions.needs_calls if step == WITHOUT_NEED else questions.needs_calls,
        )
        for number in range(1, STEP_SETTINGS)
        for step, solved in taken.items()
    }
    worse = [(STEP_SETTINGS - 1, step) for step in LATER] if loss else []
    ways = [findings_of(tests, alone) for alone in (False, True)]
    for table in range(min(CHECKED, tables)):
        check_findings(ways[0], table, step_decisions(questions, taken, table))
    return rates_of(ways, worse, -1)


def rates_of(
    ways: Sequence[Mapping[tuple[int, str | int], tuple[Numbers, Numbers]]],
    changed: Sequence[tuple[int, str | int]],
    sign: int,
) -> tuple[tuple[Rate, Rate], tuple[Rate, Rate]]:
    """Return how often anything is said where nothing has changed or with the wrong sign, and how
    often the first true change is found."""
    wrong, found = [], []
    for findings in ways:
        said = [signs == -sign if place in changed else signs != 0 for place, (signs, _) in findings.items()]
        tables = len(said[0])
        wrong.append(Rate(int(np.any(said, axis=0).sum()), tables))
        is_found = findings[changed[0]][0] == sign if changed else np.zeros(tables)
        found.append(Rate(int(is_found.sum()), tables))
    return (wrong[0], wrong[1]), (found[0], found[1])


def length_decisions(
    questions: Questions, solved: Solved, table: int
) -> dict[tuple[int, str | int], Decision]:
    """Compare the longer contexts of a setting with its shortest, as runner-compare does."""
    answers: Answers = {}
    for number, length in enumerate(COMPARED_LENGTHS):
        for case, is_right in zip(questions.cases, solved[number, table].tolist(), strict=True):
            answers[len(answers), case.question, case.gold] = QuestionOutcome(
                is_right,
                f"prompt of {length}",
                case.main_function_name,
                tools=ToolCase(case.category, length, outcome_of(is_right)),
            )
    compared = compare_tool_calls_by_context_length(run_of("none", answers), answers)
    decisions = decide_comparisons_with_holm(list(compared.values()))
    return {
        (COMPARED_LENGTHS.index(length), length): decision
        for length, decision in zip(compared, decisions, strict=True)
    }


def simulate_lengths(
    questions: Questions, generator: np.random.Generator, tables: int, share: float, gain: float
) -> tuple[tuple[Rate, Rate], tuple[Rate, Rate]]:
    """Return how often a longer context is wrongly called better or worse, and how often the longest is
    found to help; each by functions and by single questions."""
    lengths = len(COMPARED_LENGTHS)
    chances = np.array([[CATEGORIES[case.category] for case in questions.cases]] * lengths)
    chances[:-1] -= gain
    bars = np.vectorize(NORMAL.inv_cdf)(chances)
    drawn = questions.difficulties(generator, share, ALIKE[0], (lengths, tables))
    solved: Solved = drawn < bars[:, None, :]
    everywhere = np.ones(len(questions.cases), dtype=bool)
    tests: dict[tuple[int, str | int], PartTest] = {
        (number, COMPARED_LENGTHS[number]): questions.test(solved[number], solved[0], everywhere)
        for number in range(1, lengths)
    }
    ways = [findings_of(tests, alone) for alone in (False, True)]
    for table in range(min(CHECKED, tables)):
        check_findings(ways[0], table, length_decisions(questions, solved, table))
    return rates_of(ways, [(lengths - 1, COMPARED_LENGTHS[-1])] if gain else [], 1)


def steps_and_lengths(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often a step or a longer context is wrongly called better or worse, and how often a true change is
    found."""
    questions = Questions.shipped()
    heads = "share", "points", "wrongly said %", "as independent", "found %", "as independent"
    for simulated, title in (
        (simulate_steps, f"steps of {STEP_SETTINGS} settings, the last one worse at {WORSE_STEP}"),
        (simulate_lengths, f"one setting at {COMPARED_LENGTHS} tokens, the longest helps"),
    ):
        table = Table(f"{title}: {tables:,} tables a line", *heads)
        for share in SHARES:
            for change in (0.0, *LOSSES_OF_ALL):
                wrong, found = simulated(questions, generator, tables, share, change)
                shown = (found[0], found[1].plain) if change else ()
                table.row(share, f"{100 * change:.0f}", wrong[0], wrong[1].plain, *shown)
                limits.false.append(wrong[0])


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (tables, generator, started), limits = (begin("tool_steps_null", __doc__, 1000, "tables"), Limits())
    steps_and_lengths(generator, tables, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
