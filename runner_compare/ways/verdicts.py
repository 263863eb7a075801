"""Compares the verdicts on two runs' answers to the same questions."""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import partial

from runner_base.notes import Note, note
from runner_compare.features.seeds.seed_tests import with_seeds
from runner_compare.model.baselines import scoring
from runner_compare.model.data import ENGINE, Answers, Bounds, NotPaired, Question, Run, TooFew
from runner_compare.model.mean_pairs import Pairs, cluster_field, compare_means, has_means, with_functions
from runner_compare.reader import Reader
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
    check_scoring(run, base, reader)
    of_run, of_base = answers
    shared = sorted(of_run.keys() & of_base.keys())  # in the order of the questions
    remarks = [check_questions(run, base, answers, len(shared), reader)]
    pairs = with_functions(shared, [(of_run[question], of_base[question]) for question in shared])
    remarks += [check_prompts(pairs, asked), _other_engine(run, base)]
    if run.compared_while_running or base.compared_while_running:
        return noting(_compared_by_bets(run, base, pairs), *remarks)
    test_of = (
        partial(compare_means, field=cluster_field(run, base, pairs)) if has_means(pairs) else by_verdicts
    )
    return noting(at_both_ends(test_of, pairs), *remarks)


def check_scoring(run: Run, base: Run, reader: Reader) -> None:
    """Raise NotPaired if two runs were scored by different rules."""
    if scoring(run) != scoring(base):
        changed = reader.rules_between(run.task, (base.task_version, run.task_version))
        why = f" ({changed}; run the older job again)" if changed else ""
        raise NotPaired(
            f"scored differently: the baseline with {scoring(base)}, this run with {scoring(run)}{why}"
        )


def check_questions(
    run: Run, base: Run, answers: tuple[Answers, Answers], shared: int, reader: Reader
) -> Note | None:
    """Return a remark if some questions do not count in both; NotPaired if the questions are not
    the same."""
    of_run, of_base = answers
    if of_run.keys() == of_base.keys():
        return None
    if (
        shared
        and _are_left_out(run, of_base.keys() - of_run.keys(), reader)
        and _are_left_out(base, of_run.keys() - of_base.keys(), reader)
    ):
        return note("paired_on_counted", shared=shared, here=len(of_run), there=len(of_base))
    if (run.stopped_early or base.stopped_early) and shared == min(len(of_run), len(of_base)):
        return None
    same_text = {key[:2] for key in of_run} == {key[:2] for key in of_base}
    what = "the gold answers differ" if same_text else f"{shared} are the same"
    raise NotPaired(f"different questions: {len(of_run)} here, {len(of_base)} in the baseline, {what}")


def check_prompts(pairs: Pairs, asked: Asked) -> Note | None:
    """Return a remark if prompts differ and may; NotPaired if they may not."""
    n = len(pairs)
    different = sum(
        outcome.prompt != base_outcome.prompt and None not in (outcome.prompt, base_outcome.prompt)
        for outcome, base_outcome in pairs
    )
    if not different:
        return None
    if not asked.changes_prompts:
        raise NotPaired(
            f"different prompts: {different} of {n} questions have another prompt than in the baseline"
        )
    return note("different_prompts", different=different, n=n)


def _other_engine(run: Run, base: Run) -> Note | None:
    engine, other = run.value(ENGINE), base.value(ENGINE)
    return None if engine == other else note("different_engines", here=engine, there=other)


def _compared_by_bets(run: Run, base: Run, pairs: Pairs) -> Compared:
    """Compare by bets, whether or not a run stopped early: a choice of two tests would find too
    many differences."""
    comparisons = run.early_stop_comparisons(base) or base.early_stop_comparisons(run)
    compared = at_both_ends(partial(by_bets, comparisons), pairs)
    stopped = [side.job_id for side in (run, base) if side.stopped_early]
    watched = [side.job_id for side in (run, base) if side.compared_while_running]
    remarks = [
        note("stopped_early", jobs=stopped, n=len(pairs)) if stopped else note("watched", jobs=watched)
    ]
    several = max((outcome.samples for pair in pairs for outcome in pair), default=1)
    if several > 1:
        remarks.append(note("of_votes", answers=several))
    if run.errors or base.errors:  # which --count-errors has let in
        remarks.append(note("errors_not_solved"))
    return noting(compared, *remarks)


def by_verdicts(pairs: Pairs) -> McNemar:
    """Compare single verdicts of independent questions."""
    wins = sum(our.solved and not their.solved for our, their in pairs)
    losses = sum(their.solved and not our.solved for our, their in pairs)
    return McNemar(wins, losses, len(pairs), sum(their.solved for _, their in pairs))


def by_bets(comparisons: int | None, pairs: Pairs) -> Bets:
    """Compare verdicts of which a job looked at one after another while it ran."""
    return Bets([(our.solved, their.solved) for our, their in pairs], comparisons)


def at_both_ends(test_of: Callable[[Pairs], Test], pairs: Pairs) -> Compared:
    """Compare pairs; with answers that were cut off, also at both ends of what these could have
    been."""
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
    """Whether a run lacks questions only because task.only did not ask them, or task.without does
    not count them."""
    is_asked_less = all((part.value("task.only") or "null") != "null" for part in run.parts or [run])
    return not missing or is_asked_less or missing <= reader.left_out(run)


def compare_unpaired(run: Run, base: Run, why: str) -> Compared:
    """Compare two accuracies by their logged counts alone, as if they had no question in common."""
    score, base_score = run.score or (0, 0), base.score or (0, 0)
    if not score[1] or not base_score[1]:
        raise NotPaired("one of the two answered no question")
    if run.answers_each > 1 or base.answers_each > 1:
        raise NotPaired(f"{why}; unpaired, only runs with one answer to each question are compared")
    return noting(unpaired_scores(score, run.bounds, base_score, base.bounds), note("unpaired", why=why))


def unpaired_scores(
    score: Score, bounds: Bounds | None, base_score: Score, base_bounds: Bounds | None
) -> Compared:
    """Compare right answers of all; with answers that were cut off, also at both ends of what these
    could have been."""
    test = Fisher(*score, *base_score)
    (worst, best), (base_worst, base_best) = (_ends_of(score, bounds), _ends_of(base_score, base_bounds))
    if worst == best and base_worst == base_best:
        return Compared(test)
    n, base_n = score[1], base_score[1]
    ends = Fisher(worst, n, base_best, base_n), Fisher(best, n, base_worst, base_n)
    return Compared(test, (best - worst, base_best - base_worst), ends)


def _ends_of(score: Score, bounds: Bounds | None) -> tuple[int, int]:
    """Return how many answers are right if all that were cut off are wrong, and if they are
    right."""
    correct, n = score
    return (correct, correct) if bounds is None else (round(bounds.at_worst * n), round(bounds.at_best * n))
