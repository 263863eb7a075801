"""Do the intervals of task=code and task=instructions hold? `python bench/compare/code_instructions_null.py`.

pass@k: each problem has a chance of a right answer, and so many answers are drawn. The truth is the mean over all such
problems of the chance that one of k answers is right. How often does the interval that task=code records miss it? The
control treats all answers as independent problems.

Instructions: a prompt has one to three instructions. Whether an answer follows them depends on the prompt, too. How
often does the interval that task=instructions records miss the accuracy over instructions? The control treats the
instructions as independent.

Degeneration: answers have lengths, and longer ones degenerate more often. Five settings are compared with a baseline,
and again for each third of the lengths, as one would look for where a setting falls apart. All are equal first: how
often does a table say anything? The controls are the tests without Holm's correction, and one setting that degenerates
more often.
"""

from __future__ import annotations

import sys

import numpy as np
from answer_means_null import KINDS
from simulation import NORMAL, Drawn, Limits, Numbers, Rate, Table, begin

from runner.options.code.scores import compute_pass_at_k
from runner.options.instructions.judging import FollowedInstructions
from runner.options.instructions.scores import CheckedPrompt, compute_instruction_metrics
from runner_compare.statistics import ALPHA, Finding, decide_comparisons_with_holm
from runner_compare.statistics.stats import compute_wilson_interval
from runner_compare.ways.verdicts import compare_pair

PROBLEMS = [(20, 4, 2), (164, 4, 2), (164, 10, 8)]  # problems, answers to each, k
MANY = 400_000  # problems that show the mean of a kind
PROMPTS = [(66, 0.3), (66, 0.7), (300, 0.3), (300, 0.9), (541, 0.5)]  # prompts, accuracy over instructions
OF_PROMPT = 0.6  # share of the variance that the instructions of a prompt have in common
SETTINGS, QUESTIONS = 5, 300
SHARES = [0.02, 0.1, 0.3]  # of the baseline's answers that degenerate
MORE = 3.0  # so many times as often in the control
ALIKE = 0.6  # correlation of two settings' answers to the same question


def miss_pass_at_k(
    generator: np.random.Generator, kind: str, problems: int, answers: int, k: int, jobs: int
) -> tuple[Rate, Rate]:
    """Return how often the interval of pass@k misses the truth, and how often the control's does."""
    draw, _ = KINDS[kind]
    truth = float(np.mean(1 - (1 - draw(generator, MANY)) ** k))
    missed = [0, 0]
    for _ in range(jobs):
        solved = generator.binomial(answers, draw(generator, problems)).tolist()
        metrics, _ = compute_pass_at_k(solved, answers)
        ends = metrics[f"pass_at_k_low/{k}"], metrics[f"pass_at_k_high/{k}"]
        alone = compute_wilson_interval(metrics[f"pass_at_k/{k}"] * problems * answers, problems * answers)
        for way, (low, high) in enumerate((ends, alone)):
            missed[way] += not low <= truth <= high
    return Rate(missed[0], jobs), Rate(missed[1], jobs)


def miss_instruction_accuracy(
    generator: np.random.Generator, prompts: int, accuracy: float, jobs: int
) -> tuple[Rate, Rate]:
    """Return how often the interval of the accuracy over instructions misses the truth, and the control's."""
    missed, bar = [0, 0], NORMAL.inv_cdf(accuracy)
    for _ in range(jobs):
        sizes = generator.integers(1, 4, prompts)
        shared = OF_PROMPT**0.5 * generator.standard_normal(prompts)
        checked = []
        for size, difficulty in zip(sizes.tolist(), shared.tolist(), strict=True):
            drawn = difficulty + (1 - OF_PROMPT) ** 0.5 * generator.standard_normal(size)
            followed = tuple((drawn < bar).tolist())
            checked.append(CheckedPrompt(("kind",) * size, FollowedInstructions(followed, followed), None))
        metrics = compute_instruction_metrics(checked)
        name, count = "instruction_strict_accuracy", int(metrics["instructions"])
        ends = metrics[f"{name}_low"], metrics[f"{name}_high"]
        alone = compute_wilson_interval(metrics[name] * count, count)
        for way, (low, high) in enumerate((ends, alone)):
            missed[way] += not low <= accuracy <= high
    return Rate(missed[0], jobs), Rate(missed[1], jobs)


def draw_healthy(
    generator: np.random.Generator, lengths: Numbers, share: float, times: float
) -> list[Numbers]:
    """Draw which answers of the baseline and of the settings are healthy. The last setting degenerates more often."""
    question = ALIKE**0.5 * generator.standard_normal(len(lengths))
    chances = np.clip(share * lengths / lengths.mean(), 0.0001, 0.95)
    healthy = []
    for number in range(SETTINGS + 1):
        own = np.clip(chances * (times if number == SETTINGS else 1), 0, 0.98)
        bars = np.vectorize(NORMAL.inv_cdf)(1 - own)
        healthy.append(question + (1 - ALIKE) ** 0.5 * generator.standard_normal(len(lengths)) < bars)
    return healthy


def find_differences(
    generator: np.random.Generator, share: float, times: float, tables: int, by_length: bool
) -> tuple[Rate, Rate]:
    """Return how often a table says anything of a setting, and how often without a correction."""
    said = [0, 0]
    for _ in range(tables):
        lengths = generator.lognormal(5, 0.8, QUESTIONS)
        healthy = draw_healthy(generator, lengths, share, times)
        thirds = (
            np.digitize(lengths, np.quantile(lengths, [1 / 3, 2 / 3])) if by_length else np.zeros(QUESTIONS)
        )
        comparisons = []
        for third in np.unique(thirds):
            reader = Drawn(int((thirds == third).sum()))
            runs = [reader.add(f"run-{number}", line[thirds == third]) for number, line in enumerate(healthy)]
            comparisons += [compare_pair(run, runs[0], reader) for run in runs[1:]]
        decisions = decide_comparisons_with_holm(comparisons)
        said[0] += any(decision.finding is not Finding.open for decision in decisions)
        said[1] += any(decision.p is not None and decision.p < ALPHA for decision in decisions)
    return Rate(said[0], tables), Rate(said[1], tables)


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (jobs, generator, started), limits = begin("code_instructions_null", __doc__, 1000, "jobs"), Limits()
    table = Table(
        f"pass@k, {jobs:,} jobs a line",
        "problems",
        "answers",
        "k",
        "kind             ",
        "missed %",
        "as problems",
    )
    for problems, answers, k in PROBLEMS:
        for kind in KINDS:
            missed, alone = miss_pass_at_k(generator, kind, problems, answers, k, jobs)
            table.row(problems, answers, k, kind, missed, alone.plain)
            limits.missed.append(missed)
    table = Table(f"instructions, {jobs:,} jobs a line", "prompts", "accuracy", "missed %", "as independent")
    for prompts, accuracy in PROMPTS:
        missed, alone = miss_instruction_accuracy(generator, prompts, accuracy, jobs)
        table.row(prompts, accuracy, missed, alone.plain)
        limits.missed.append(missed)
    tables = max(1, jobs // 2)
    heads = ("share", "by length", "said of equal %", "without Holm", "found %")
    table = Table(f"degeneration, {SETTINGS} settings, {tables:,} tables a line", *heads)
    for share in SHARES:
        for by_length in (False, True):
            false, alone = find_differences(generator, share, 1.0, tables, by_length)
            found, _ = find_differences(generator, share, MORE, max(1, tables // 4), by_length)
            table.row(share, "thirds" if by_length else "no", false, alone.plain, found)
            limits.false.append(false)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
