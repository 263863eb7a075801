"""One run against its baseline: find the baseline, check that the two can be compared, and test."""

from __future__ import annotations

from collections.abc import Sequence

from runner.compare.config_keys import group
from runner.compare.data import JOB_ID, Answers, Comparison, Finding, Method, NotPaired, Row, Run, label
from runner.compare.evidence import Evidence
from runner.core.stats import (
    detectable_difference,
    fisher_exact,
    holm,
    mcnemar_exact,
    paired_difference_interval,
    unpaired_detectable_difference,
    unpaired_difference_interval,
)

ALPHA = 0.05
EXTRACTOR = "task.extractor"
MAKES_PROMPTS = ("model.", "task.prompt", "task.shots", "task.instruction", "task.system")  # keys that begin like this


def find_baseline(run: Run, candidates: list[Run], baseline: dict[str, str], keys: list[str]) -> Run:
    """Return the one candidate that differs from the run in nothing but the baseline's keys.

    nf4 has keys that `none` lacks: within a group that the baseline names, a key that only one of the two
    runs has comes with the choice and does not count.
    """
    groups = {key.removesuffix("name") for key in baseline if key.endswith(".name")}

    def differences(other: Run) -> list[str]:
        return [
            key
            for key in keys
            if key not in baseline
            and run.value(key) != other.value(key)
            and not (None in (run.value(key), other.value(key)) and f"{group(key)}." in groups)
        ]

    if not candidates:
        raise NotPaired("no baseline in this task")
    found = [(differences(other), other) for other in candidates]
    fitting = [other for differing, other in found if not differing]
    if not fitting:
        differing, other = min(found, key=lambda item: len(item[0]))
        what = ", ".join(f"{label(key)} ({other.value(key)}, here {run.value(key)})" for key in differing)
        raise NotPaired(f"no baseline: the nearest one differs in {what}")
    alike = [other for other in fitting if scoring(other) == scoring(run)] or fitting
    if len(alike) > 1:
        several = ", ".join(sorted(other.job_id for other in alike)[:3])
        raise NotPaired(f"{len(alike)} baselines match ({several}): name one, e.g. with {JOB_ID}=…")
    return alike[0]


def scoring(run: Run) -> tuple[str, str | None]:
    """Return the rules that judged a run's answers: the task's version and the extractor."""
    return run.task_version, run.value(EXTRACTOR)


def refuse_other_scoring(run: Run, base: Run) -> None:
    """Raise NotPaired where two runs were judged by different rules."""

    def words(one: Run) -> str:
        return f"version {one.task_version} {one.value(EXTRACTOR) or ''}".strip()

    if scoring(run) != scoring(base):
        raise NotPaired(f"scored differently: the baseline with {words(base)}, this run with {words(run)}")


def refuse_other_questions(ours: Answers, theirs: Answers) -> None:
    """Raise NotPaired where two runs were asked other questions."""
    if ours.solved.keys() == theirs.solved.keys():
        return
    shared = len(ours.solved.keys() & theirs.solved.keys())
    same_text = {key[:2] for key in ours.solved} == {key[:2] for key in theirs.solved}
    what = "the gold answers differ" if same_text else f"{shared} are the same"
    raise NotPaired(f"other questions: {len(ours.solved)} here, {len(theirs.solved)} in the baseline, {what}")


def other_prompts(ours: Answers, theirs: Answers) -> int:
    """Return for how many questions the two runs were given prompts that differ; unknown ones do not count."""
    pairs = ((prompt, theirs.prompts.get(question)) for question, prompt in ours.prompts.items())
    return sum(one is not None and other is not None and one != other for one, other in pairs)


def compare_pair(run: Run, base: Run, evidence: Evidence, asked: Sequence[str] = ()) -> Comparison:
    """Compare two runs question by question.

    `asked` are the keys that the comparison is about: prompts may differ where one of them makes prompts.
    """
    refuse_other_scoring(run, base)
    ours, theirs = evidence.of(run), evidence.of_baseline(base)
    refuse_other_questions(ours, theirs)
    n, remark = len(ours.solved), None
    other = other_prompts(ours, theirs)
    if other:
        if not any(key.startswith(MAKES_PROMPTS) for key in asked):
            raise NotPaired(f"other prompts: {other} of {n} questions were put in other words than in the baseline")
        remark = f"other prompts for {other} of {n} questions"
    wins = sum(solved and not theirs.solved[question] for question, solved in ours.solved.items())
    losses = sum(not solved and theirs.solved[question] for question, solved in ours.solved.items())
    return paired(base.job_id, wins, losses, n, sum(theirs.solved.values()), remark)


def paired(
    base_job_id: str, wins: int, losses: int, n: int, base_correct: int = 0, remark: str | None = None
) -> Comparison:
    """Return the paired comparison that these counts make, before Holm's correction."""
    low, high = paired_difference_interval(wins, losses, n)
    return Comparison(
        base_job_id,
        (wins - losses) / n if n else 0.0,
        low,
        high,
        mcnemar_exact(wins, losses),
        Method.mcnemar,
        wins,
        losses,
        n - wins - losses,
        baseline_correct=base_correct,
        baseline_n=n,
        remark=remark,
    )


def compare_unpaired(run: Run, base: Run, why: str) -> Comparison:
    """Compare two accuracies by their logged counts alone, as if their questions had nothing in common."""
    (k1, n1), (k2, n2) = run.score or (0, 0), base.score or (0, 0)
    if not n1 or not n2:
        raise NotPaired("one of the two answered no question")
    return unpaired(base.job_id, k1, n1, k2, n2, f"unpaired, {why}")


def unpaired(base_job_id: str, k1: int, n1: int, k2: int, n2: int, remark: str | None = None) -> Comparison:
    """Return the comparison of k1 right of n1 with the baseline's k2 of n2, before Holm's correction."""
    low, high = unpaired_difference_interval(k1, n1, k2, n2)
    return Comparison(
        base_job_id,
        k1 / n1 - k2 / n2,
        low,
        high,
        fisher_exact(k1, n1, k2, n2),
        Method.fisher,
        baseline_correct=k2,
        baseline_n=n2,
        remark=remark,
    )


def judge(rows: list[Row]) -> None:
    """Adjust p over all comparisons of a table and decide what each one shows."""
    compared = [(row, row.comparison) for row in rows if row.comparison]
    adjusted = holm([it.p for _, it in compared])
    for (row, it), p_holm in zip(compared, adjusted, strict=True):
        it.p_holm = p_holm
        if p_holm < ALPHA:
            it.finding = Finding.better if it.difference > 0 else Finding.worse
        correct, n = row.score or (0, 0)
        # Holm asks for no stricter level than ALPHA / comparisons: the difference is detectable at any rank.
        alpha = ALPHA / len(compared)
        if it.wins is not None and it.losses is not None:
            rate = (it.wins + it.losses) / n if n else 0.0
            it.detectable_difference = detectable_difference(n, rate, alpha=alpha)
        else:
            pooled = (correct + it.baseline_correct) / (n + it.baseline_n)
            it.detectable_difference = unpaired_detectable_difference(n, it.baseline_n, pooled, alpha=alpha)
