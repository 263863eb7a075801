"""One run against its baseline: find the baseline, check that the two can be compared, and test.

Runs with verdicts are compared by their answers to the same questions, others by their repeats: a sweep's cells, the
figures of a memory benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from runner.compare.data import (
    EXTRACTOR,
    JOB_ID,
    Answer,
    Comparison,
    Finding,
    Flip,
    Flips,
    Method,
    NotPaired,
    Ratio,
    Row,
    Run,
    group,
    label,
    named_groups,
)
from runner.compare.runs import Evidence
from runner.core import stats
from runner.core.metrics import BY_REPEATS
from runner.core.result import REPEATS, read_repeats
from runner.core.sequential import Pairs

ALPHA = 0.05
MAKES_PROMPTS = (
    "model.",
    "task.prompt",
    "task.template",
    "task.shots",
    "task.instruction",
    "task.system",
)  # keys that begin like this


def find_baseline(run: Run, candidates: list[Run], baseline: dict[str, str], keys: list[str]) -> Run:
    """Return the one candidate that differs from the run in nothing but the baseline's keys.

    nf4 has keys that `none` lacks: within a group that the baseline names, a key that only one of the two
    runs has comes with the choice and does not count.
    """
    chosen = named_groups(baseline)

    def differences(other: Run) -> list[str]:
        return [
            key
            for key in keys
            if key not in baseline
            and run.value(key) != other.value(key)
            and not (None in (run.value(key), other.value(key)) and group(key) in chosen)
        ]

    if not candidates:
        raise NotPaired("no baseline in this task")
    found = [(differences(other), other) for other in candidates]
    fitting = [other for differing, other in found if not differing]
    if not fitting:
        differing, other = min(found, key=lambda item: len(item[0]))
        raise NotPaired(f"no baseline: the nearest one differs in {both_values(run, other, differing)}")
    alike = [other for other in fitting if scoring(other) == scoring(run)] or fitting
    if len(alike) > 1:
        several = ", ".join(sorted(other.job_id for other in alike)[:3])
        raise NotPaired(f"{len(alike)} baselines match ({several}): name one, e.g. with {JOB_ID}=…")
    return alike[0]


def both_values(run: Run, base: Run, keys: list[str]) -> str:
    """Return what two runs have for each of these keys: `seed (0, here 1)`."""
    return ", ".join(f"{label(key)} ({base.value(key)}, here {run.value(key)})" for key in keys)


def scoring(run: Run) -> str:
    """Return the rules that judged a run's answers: the task's version and the extractor."""
    return f"version {run.task_version} {run.value(EXTRACTOR) or ''}".strip()


def compare_pair(run: Run, base: Run, evidence: Evidence, asked: Sequence[str] = ()) -> Comparison:
    """Compare two runs question by question.

    `asked` are the keys that the comparison is about: prompts may differ where one of them makes prompts.
    """
    if scoring(run) != scoring(base):
        raise NotPaired(f"scored differently: the baseline with {scoring(base)}, this run with {scoring(run)}")
    ours, theirs = evidence.of(run), evidence.of_baseline(base)
    shared = sorted(ours.keys() & theirs.keys())  # in the order of the questions
    stopped = [it.job_id for it in (run, base) if it.stopped_early]
    n, remark = len(shared), None
    if ours.keys() != theirs.keys() and not (stopped and n == min(len(ours), len(theirs))):
        same_text = {key[:2] for key in ours} == {key[:2] for key in theirs}
        what = "the gold answers differ" if same_text else f"{n} are the same"
        raise NotPaired(f"other questions: {len(ours)} here, {len(theirs)} in the baseline, {what}")
    pairs = [(ours[question], theirs[question]) for question in shared]
    other = sum(our.prompt != their.prompt and None not in (our.prompt, their.prompt) for our, their in pairs)
    if other:
        if not any(key.startswith(MAKES_PROMPTS) for key in asked):
            raise NotPaired(f"other prompts: {other} of {n} questions were put in other words than in the baseline")
        remark = f"other prompts for {other} of {n} questions"
    if stopped:
        words = f"{' and '.join(stopped)} stopped early: paired on the {n} questions that both have"
        return by_bets(base.job_id, pairs, "; ".join(filter(None, (words, remark))))
    wins = sum(our.solved and not their.solved for our, their in pairs)
    losses = sum(their.solved and not our.solved for our, their in pairs)
    return paired(base.job_id, wins, losses, n, sum(their.solved for _, their in pairs), remark)


def paired(
    base_job_id: str, wins: int, losses: int, n: int, base_correct: int = 0, remark: str | None = None
) -> Comparison:
    """Return the paired comparison that these counts make, before Holm's correction."""
    return Comparison(
        base_job_id,
        (wins - losses) / n if n else 0.0,
        *stats.paired_difference_interval(wins, losses, n),
        stats.mcnemar_exact(wins, losses),
        Method.mcnemar,
        wins,
        losses,
        ties=n - wins - losses,
        baseline_correct=base_correct,
        baseline_n=n,
        remark=remark,
    )


def by_bets(base_job_id: str, pairs: Sequence[tuple[Answer, Answer]], remark: str) -> Comparison:
    """Return the comparison of pairs of which one side stopped when it liked: a test for one look would not hold."""
    seen = Pairs()
    for our, their in pairs:
        seen.add(our.solved, their.solved)
    return Comparison(
        base_job_id,
        seen.difference,
        seen.low,
        seen.high,
        seen.p,
        Method.sequential,
        seen.wins,
        seen.losses,
        seen.ties,
        baseline_correct=sum(their.solved for _, their in pairs),
        baseline_n=len(pairs),
        remark=remark,
    )


def compare_unpaired(run: Run, base: Run, why: str) -> Comparison:
    """Compare two accuracies by their logged counts alone, as if their questions had nothing in common."""
    (k1, n1), (k2, n2) = run.score or (0, 0), base.score or (0, 0)
    if not n1 or not n2:
        raise NotPaired("one of the two answered no question")
    return Comparison(
        base.job_id,
        k1 / n1 - k2 / n2,
        *stats.unpaired_difference_interval(k1, n1, k2, n2),
        stats.fisher_exact(k1, n1, k2, n2),
        Method.fisher,
        baseline_correct=k2,
        baseline_n=n2,
        remark=f"unpaired, {why}",
    )


def judge(rows: list[Row]) -> None:
    """Adjust p over all comparisons of a table and decide what each one shows."""
    compared = [(row, row.comparison) for row in rows if row.comparison]
    adjusted = stats.holm([it.p for _, it in compared])
    for (row, it), p_holm in zip(compared, adjusted, strict=True):
        it.p_holm = p_holm
        if p_holm < ALPHA:
            it.finding = Finding.better if it.difference > 0 else Finding.worse
        correct, n = row.run.score or (0, 0)
        # Holm asks for no stricter level than ALPHA / comparisons: the difference is detectable at any rank.
        alpha = ALPHA / len(compared)
        if it.method is Method.mcnemar and it.wins is not None and it.losses is not None:
            rate = (it.wins + it.losses) / n if n else 0.0
            it.detectable_difference = stats.detectable_difference(n, rate, alpha=alpha)
        elif it.method is Method.fisher:
            pooled = (correct + it.baseline_correct) / (n + it.baseline_n)
            it.detectable_difference = stats.unpaired_detectable_difference(n, it.baseline_n, pooled, alpha=alpha)


def compare_repeats(run: Run, base: Run, evidence: Evidence) -> list[Ratio]:
    """Return the ratio to the baseline for every measure that both runs repeated."""
    if run.task_version != base.task_version:
        versions = f"version {base.task_version}, this run with version {run.task_version}"
        raise NotPaired(f"measured differently: the baseline with {versions}")
    ours, theirs = repeats_of(run, evidence), repeats_of(base, evidence)
    shared = [name for name in ours if name in theirs and min(*ours[name], *theirs[name]) > 0]
    if not shared:
        raise NotPaired(f"nothing was measured in both: {', '.join(ours)}; {', '.join(theirs)}")
    interval = stats.bootstrap_ratio_interval
    return [
        Ratio(name, median(a) / median(b), *interval(a, b), len(a), len(b), stats.rank_sum_exact(a, b))
        for name, a, b in ((name, ours[name], theirs[name]) for name in shared)
    ]


def repeats_of(run: Run, evidence: Evidence) -> dict[str, list[float]]:
    """Return the repeats of each measure that runs are compared by, from the run's folder or from MLflow."""
    if "task.repeats" not in run.params:
        raise NotPaired(f"task={run.task} has neither verdicts nor repeats to compare by")
    for path in evidence.files(run, REPEATS):
        try:
            measures = read_repeats(path)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half written, perhaps: MLflow has another copy
        found = {name: measures[name] for key in BY_REPEATS for name in measures if name.partition("/")[0] == key}
        if found:
            return found
    raise NotPaired(f"no evidence: {REPEATS} of {run.job_id} is neither in its folder nor in MLflow, or not whole")


def judge_ratios(rows: list[Row]) -> None:
    """Adjust p over all comparisons of one figure in the table, and decide what each one shows."""
    families: dict[str, list[Ratio]] = {}
    for row in rows:
        for it in row.ratios:
            families.setdefault(it.measure.partition("/")[0], []).append(it)
    for family in families.values():
        for it, p_holm in zip(family, stats.holm([one.p for one in family]), strict=True):
            it.p_holm, it.comparisons = p_holm, len(family)
            if p_holm < ALPHA and it.ratio != 1:
                it.finding = Finding.larger if it.ratio > 1 else Finding.smaller


def repeats_needed(comparisons: int) -> int:
    """Return how many repeats per side can show a difference in one of so many comparisons, if no values overlap."""
    needed = 1
    while 2 / math.comb(2 * needed, needed) >= ALPHA / comparisons:
        needed += 1
    return needed


def find_flips(run: Run, base: Run, evidence: Evidence, most: int | None = None) -> Flips:
    """Return the questions that only one of the two solved: at most `most` lost ones and as many won ones."""
    ours, theirs = evidence.of(run), evidence.of_baseline(base)
    ours = {question: answer for question, answer in ours.items() if question in theirs}  # the other may have fewer
    lost = sorted(question for question, answer in ours.items() if theirs[question].solved and not answer.solved)
    won = sorted(question for question, answer in ours.items() if answer.solved and not theirs[question].solved)
    shown = lost[:most] + won[:most]
    our_words, their_words = evidence.words(run, set(shown)), evidence.words(base, set(shown))
    questions = [
        Flip(it[0], our_words[it].pop("question", it[1]), it[2], our_words[it], their_words[it], ours[it].solved)
        for it in shown
    ]
    both_right = sum(answer.solved and theirs[question].solved for question, answer in ours.items())
    both_wrong = len(ours) - both_right - len(won) - len(lost)
    return Flips(run.job_id, base.job_id, len(won), len(lost), both_right, both_wrong, questions)
