"""Compares one run with its baseline: finds the baseline, checks that the two can be compared, and tests.

Runs with verdicts are compared by their answers to the same questions, others by what was measured over their runs: the
cells of a sweep, the figures of a memory benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace
from functools import partial

from runner_base.result import REPEATS
from runner_compare.data import (
    ENGINE,
    EXTRACTOR,
    JOB_ID,
    SCORER,
    Answers,
    Bounds,
    NotPaired,
    Question,
    Run,
    group,
    label,
)
from runner_compare.flips import Flip, Flips
from runner_compare.mean_pairs import Pairs, cluster_field, compare_means, has_means
from runner_compare.metrics import BY_REPEATS
from runner_compare.reader import Reader
from runner_compare.repeated_runs import measured
from runner_compare.statistics import effects, number_effects
from runner_compare.statistics.effects import Effect

PROMPT_KEYS = (
    "model.",
    "task.prompt",
    "task.template",
    "task.shots",
    "task.instruction",
    "task.system",
)  # keys that begin with one of these change prompts

NOT_SET = "null"  # the value of a key without one, in a record


def find_baseline(run: Run, candidates: list[Run], baseline: dict[str, str], keys: list[str]) -> Run:
    """Return the one candidate that differs from the run only in the baseline's keys.

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
    differences_of = [(differences(other), other) for other in candidates]
    fitting = [other for differing, other in differences_of if not differing]
    if not fitting:
        differing, other = min(differences_of, key=lambda item: len(item[0]))
        raise NotPaired(f"no baseline: the nearest one differs in {both_values(run, other, differing)}")
    alike = [other for other in fitting if scoring(other) == scoring(run)] or fitting
    if len(alike) > 1:
        several = ", ".join(sorted(other.job_id for other in alike)[:3])
        raise NotPaired(f"{len(alike)} baselines match ({several}): name one, e.g. with {JOB_ID}=…")
    return alike[0]


def both_values(run: Run, base: Run, keys: list[str]) -> str:
    """Return both runs' values of each key: `seed (0, here 1)`."""
    return ", ".join(f"{label(key)} ({base.value(key)}, here {run.value(key)})" for key in keys)


def scoring(run: Run) -> str:
    """Return the rules by which a run was scored: the task's version, and the extractor or the scorer."""
    by = next((it for key in (SCORER, EXTRACTOR) if (it := run.value(key)) not in (None, NOT_SET)), "")
    return f"version {run.task_version} {by}".strip()


def compare_pair(run: Run, base: Run, reader: Reader, compared_keys: Sequence[str] = ()) -> Effect:
    """Compare two runs question by question.

    `compared_keys` are the keys that are compared: prompts may differ if one of these keys changes prompts.
    """
    return compare_answers(run, base, (reader.of(run), reader.of_baseline(base)), reader, compared_keys)


def compare_answers(
    run: Run, base: Run, answers: tuple[Answers, Answers], reader: Reader, compared_keys: Sequence[str] = ()
) -> Effect:
    """Compare two runs of which these are the answers."""
    if scoring(run) != scoring(base):
        changed = reader.rules_between(run.task, (base.task_version, run.task_version))
        why = f" ({changed}; run the older job again)" if changed else ""
        raise NotPaired(f"scored differently: the baseline with {scoring(base)}, this run with {scoring(run)}{why}")
    ours, theirs = answers
    shared = sorted(ours.keys() & theirs.keys())  # in the order of the questions
    stopped = [it.job_id for it in (run, base) if it.stopped_early]
    n, remark = len(shared), None
    if (
        n
        and ours.keys() != theirs.keys()
        and _are_left_out(run, theirs.keys() - ours.keys(), reader)
        and _are_left_out(base, ours.keys() - theirs.keys(), reader)
    ):
        remark = f"paired on the {n:,} questions that count in both: of {len(ours):,} here, {len(theirs):,} there"
    elif ours.keys() != theirs.keys() and not (stopped and n == min(len(ours), len(theirs))):
        same_text = {key[:2] for key in ours} == {key[:2] for key in theirs}
        what = "the gold answers differ" if same_text else f"{n} are the same"
        raise NotPaired(f"different questions: {len(ours)} here, {len(theirs)} in the baseline, {what}")
    pairs = [(ours[question], theirs[question]) for question in shared]
    other_prompts = sum(our.prompt != their.prompt and None not in (our.prompt, their.prompt) for our, their in pairs)
    if other_prompts:
        if not any(key.startswith(PROMPT_KEYS) for key in compared_keys):
            raise NotPaired(
                f"different prompts: {other_prompts} of {n} questions have another prompt than in the baseline"
            )
        remark = "; ".join(filter(None, (remark, f"different prompts for {other_prompts} of {n} questions")))
    engine, other = run.value(ENGINE), base.value(ENGINE)
    if engine != other:
        remark = "; ".join(filter(None, (remark, f"different engines: {engine} here, {other} in the baseline")))
    watched = [it.job_id for it in (run, base) if it.compared_while_running]
    if watched:  # by bets, whether or not it stopped early: a choice between two tests would find too many differences
        comparisons = run.early_stop_comparisons(base) or base.early_stop_comparisons(run)
        effect = at_both_ends(partial(by_bets, comparisons), pairs)
        words = (
            f"{' and '.join(watched)} {'were compared while they' if len(watched) > 1 else 'was compared while it'} ran"
        )
        if stopped:
            words = f"{' and '.join(stopped)} stopped early: paired on the {n} questions that both have"
        several = max((one.samples for pair in pairs for one in pair), default=1)
        if several > 1:
            words += f"; this difference is one of votes of {several} answers, which the job compared while it ran"
        if run.errors or base.errors:  # which --count-errors has let in
            words += "; questions that ended in an error count as not solved here, and not at all in what the job says"
        return replace(effect, remark="; ".join(filter(None, (words, remark))))
    effect_of = partial(compare_means, field=cluster_field(run, base)) if has_means(pairs) else by_verdicts
    return replace(at_both_ends(effect_of, pairs), remark=remark)


def by_verdicts(pairs: Pairs) -> Effect:
    """Compare single verdicts of independent questions."""
    wins = sum(our.solved and not their.solved for our, their in pairs)
    losses = sum(their.solved and not our.solved for our, their in pairs)
    return effects.paired_accuracies(wins, losses, len(pairs), sum(their.solved for _, their in pairs))


def by_bets(comparisons: int | None, pairs: Pairs) -> Effect:
    """Compare verdicts of which a job looked at one after another while it ran."""
    return effects.sequential_accuracies(((our.solved, their.solved) for our, their in pairs), comparisons)


def at_both_ends(effect_of: Callable[[Pairs], Effect], pairs: Pairs) -> Effect:
    """Compare pairs; with answers that were cut off, also at both ends of what these could have been."""
    effect = effect_of(pairs)
    cut_off = sum(our.cut_off for our, _ in pairs), sum(their.cut_off for _, their in pairs)
    if not any(cut_off):
        return effect
    low, high = (
        effect_of([(our.if_cut_off(right), their.if_cut_off(not right)) for our, their in pairs])
        for right in (False, True)
    )
    return effect.with_ends(cut_off, low, high)


def _are_left_out(run: Run, missing: Set[Question], reader: Reader) -> bool:
    """Whether a run lacks questions only because task.only did not ask them, or task.without does not count them."""
    is_asked_less = all((part.value("task.only") or "null") != "null" for part in run.parts or [run])
    return not missing or is_asked_less or missing <= reader.left_out(run)


def compare_unpaired(run: Run, base: Run, why: str) -> Effect:
    """Compare two accuracies by their logged counts alone, as if they had no question in common."""
    (k1, n1), (k2, n2) = run.score or (0, 0), base.score or (0, 0)
    if not n1 or not n2:
        raise NotPaired("one of the two answered no question")
    if run.answers_each > 1 or base.answers_each > 1:
        raise NotPaired(f"{why}; unpaired, only runs with one answer to each question are compared")
    return replace(unpaired_scores((k1, n1), run.bounds, (k2, n2), base.bounds), remark=f"unpaired, {why}")


Score = tuple[int, int]


def unpaired_scores(ours: Score, our_bounds: Bounds | None, theirs: Score, their_bounds: Bounds | None) -> Effect:
    """Compare right answers of all; with answers that were cut off, also at both ends of what these could have been."""
    effect = effects.unpaired_accuracies(*ours, *theirs)
    ends = [
        (k, k) if it is None else (round(it.at_worst * n), round(it.at_best * n))
        for (k, n), it in ((ours, our_bounds), (theirs, their_bounds))
    ]
    (worst, best), (their_worst, their_best) = ends
    if worst == best and their_worst == their_best:
        return effect
    low = effects.unpaired_accuracies(worst, ours[1], their_best, theirs[1])
    high = effects.unpaired_accuracies(best, ours[1], their_worst, theirs[1])
    return effect.with_ends((best - worst, their_best - their_worst), low, high)


def compare_repeats(run: Run, base: Run, reader: Reader) -> list[Effect]:
    """Return the ratio to the baseline for every measure that both jobs have."""
    if run.task_version != base.task_version:
        versions = f"version {base.task_version}, this run with version {run.task_version}"
        raise NotPaired(f"measured differently: the baseline with {versions}")
    ours, theirs = repeats_of(run, reader), repeats_of(base, reader)
    shared = [name for name in ours if name in theirs and min(*ours[name], *theirs[name]) > 0]
    if not shared:
        raise NotPaired(f"nothing was measured in both: {', '.join(ours)}; {', '.join(theirs)}")
    return [
        number_effects.ratio_of_measurements(name, measured(run, name, ours[name]), measured(base, name, theirs[name]))
        for name in shared
    ]


def repeats_of(run: Run, reader: Reader) -> dict[str, list[float]]:
    """Return the repeats of each measure that is compared, from the run's folder or from MLflow."""
    if "task.repeats" not in run.params:
        raise NotPaired(f"task={run.task} has neither verdicts nor repeats to compare by")
    for measures in reader.repeats(run):
        compared_measures = {
            name: measures[name] for key in BY_REPEATS for name in measures if name.partition("/")[0] == key
        }
        if compared_measures:
            return compared_measures
    raise NotPaired(f"no repeats: {REPEATS} of {run.job_id} is neither in its folder nor in MLflow, or not whole")


def find_flips(run: Run, base: Run, reader: Reader, most: int | None = None) -> Flips:
    """Return the questions that only one of the two solved: at most `most` lost ones and `most` won ones."""
    ours, theirs = reader.of(run), reader.of_baseline(base)
    ours = {question: answer for question, answer in ours.items() if question in theirs}  # the baseline may have fewer
    lost = sorted(question for question, answer in ours.items() if theirs[question].solved and not answer.solved)
    won = sorted(question for question, answer in ours.items() if answer.solved and not theirs[question].solved)
    shown = lost[:most] + won[:most]
    our_words, their_words = reader.words(run, set(shown)), reader.words(base, set(shown))
    questions = [
        Flip(it[0], our_words[it].pop("question", it[1]), it[2], our_words[it], their_words[it], ours[it].solved)
        for it in shown
    ]
    both_right = sum(answer.solved and theirs[question].solved for question, answer in ours.items())
    both_wrong = len(ours) - both_right - len(won) - len(lost)
    return Flips(run.job_id, base.job_id, len(won), len(lost), both_right, both_wrong, questions)


def named_groups(keys: Iterable[str]) -> set[str]:
    """Return the config groups whose choice is among these keys."""
    return {group(key) for key in keys if key.endswith(".name")}
