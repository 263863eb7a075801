"""Compares the verdicts on two runs' answers to the same questions."""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import partial

from runner_compare.baselines import scoring
from runner_compare.data import ENGINE, Answers, Bounds, NotPaired, Question, Run, TooFew
from runner_compare.mean_pairs import Pairs, cluster_field, compare_means, has_means
from runner_compare.reader import Reader
from runner_compare.seed_tests import with_seeds
from runner_compare.statistics import Bets, Compared, Fisher, McNemar, Test
from runner_compare.ways import Asked, noting

Score = tuple[int, int]  # right answers, of all
NOTHING_ELSE = Asked()


def fits(run: Run) -> bool:
    """Whether a run has verdicts."""
    return run.score is not None


def compare(run: Run, base: Run, reader: Reader, asked: Asked) -> list[Compared]:
    """Compare two runs question by question, or by their counts if that is asked for."""
    try:
        return [with_seeds(compare_pair(run, base, reader, asked), run, base)]
    except NotPaired as reason:
        if not asked.is_unpaired or isinstance(reason, TooFew) or run.over_seeds or base.over_seeds:
            raise
        return [compare_unpaired(run, base, str(reason))]


def compare_pair(run: Run, base: Run, reader: Reader, asked: Asked = NOTHING_ELSE) -> Compared:
    """Compare two runs question by question."""
    return compare_answers(run, base, (reader.of(run), reader.of_baseline(base)), reader, asked)


def compare_answers(
    run: Run, base: Run, answers: tuple[Answers, Answers], reader: Reader, asked: Asked = NOTHING_ELSE
) -> Compared:
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
        if not asked.changes_prompts:
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
        compared = at_both_ends(partial(by_bets, comparisons), pairs)
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
        return noting(compared, words, remark)
    test_of = partial(compare_means, field=cluster_field(run, base)) if has_means(pairs) else by_verdicts
    return noting(at_both_ends(test_of, pairs), remark)


def by_verdicts(pairs: Pairs) -> McNemar:
    """Compare single verdicts of independent questions."""
    wins = sum(our.solved and not their.solved for our, their in pairs)
    losses = sum(their.solved and not our.solved for our, their in pairs)
    return McNemar(wins, losses, len(pairs), sum(their.solved for _, their in pairs))


def by_bets(comparisons: int | None, pairs: Pairs) -> Bets:
    """Compare verdicts of which a job looked at one after another while it ran."""
    return Bets([(our.solved, their.solved) for our, their in pairs], comparisons)


def at_both_ends(test_of: Callable[[Pairs], Test], pairs: Pairs) -> Compared:
    """Compare pairs; with answers that were cut off, also at both ends of what these could have been."""
    test = test_of(pairs)
    cut_off = sum(our.cut_off for our, _ in pairs), sum(their.cut_off for _, their in pairs)
    if not any(cut_off):
        return Compared(test)
    worst, best = (
        test_of([(our.if_cut_off(right), their.if_cut_off(not right)) for our, their in pairs])
        for right in (False, True)
    )
    return Compared(test, cut_off, (worst, best))


def _are_left_out(run: Run, missing: Set[Question], reader: Reader) -> bool:
    """Whether a run lacks questions only because task.only did not ask them, or task.without does not count them."""
    is_asked_less = all((part.value("task.only") or "null") != "null" for part in run.parts or [run])
    return not missing or is_asked_less or missing <= reader.left_out(run)


def compare_unpaired(run: Run, base: Run, why: str) -> Compared:
    """Compare two accuracies by their logged counts alone, as if they had no question in common."""
    score, base_score = run.score or (0, 0), base.score or (0, 0)
    if not score[1] or not base_score[1]:
        raise NotPaired("one of the two answered no question")
    if run.answers_each > 1 or base.answers_each > 1:
        raise NotPaired(f"{why}; unpaired, only runs with one answer to each question are compared")
    return noting(unpaired_scores(score, run.bounds, base_score, base.bounds), f"unpaired, {why}")


def unpaired_scores(score: Score, bounds: Bounds | None, base_score: Score, base_bounds: Bounds | None) -> Compared:
    """Compare right answers of all; with answers that were cut off, also at both ends of what these could have been."""
    test = Fisher(*score, *base_score)
    (worst, best), (base_worst, base_best) = (_ends_of(score, bounds), _ends_of(base_score, base_bounds))
    if worst == best and base_worst == base_best:
        return Compared(test)
    n, base_n = score[1], base_score[1]
    ends = Fisher(worst, n, base_best, base_n), Fisher(best, n, base_worst, base_n)
    return Compared(test, (best - worst, base_best - base_worst), ends)


def _ends_of(score: Score, bounds: Bounds | None) -> tuple[int, int]:
    """Return how many answers are right if all that were cut off are wrong, and if they are right."""
    correct, n = score
    return (correct, correct) if bounds is None else (round(bounds.at_worst * n), round(bounds.at_best * n))
