"""Compare the verdicts of two runs on the same questions."""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import partial

from runner_base.notes import Note, note
from runner_compare.features.seeds.seed_tests import add_seed_variance_to_comparison
from runner_compare.model.baselines import get_scoring_method
from runner_compare.model.data import ENGINE, AccuracyBounds, Answers, NotPaired, Question, Run, TooFewPairs
from runner_compare.model.mean_pairs import (
    Pairs,
    cluster_questions_by_expected_function,
    create_mean_difference_test,
    find_cluster_field,
    needs_mean_test,
)
from runner_compare.reader import Reader
from runner_compare.statistics import FisherTest, McNemarTest, RunComparison, SequentialTest, Test
from runner_compare.statistics.early_stop_test import (
    FINAL_TEST_USED,
    ONLY_SEQUENTIAL,
    WITH_FINAL_TEST,
    ErrorParts,
)
from runner_compare.ways import PairingOptions, with_notes

Score = tuple[int, int]  # right answers, of all
NOTHING_ELSE = PairingOptions()


def can_compare_run(run: Run) -> bool:
    """Whether a run has verdicts."""
    return run.correct_and_total is not None


def compare_with_baseline(
    run: Run, base: Run, reader: Reader, pairing: PairingOptions
) -> list[RunComparison]:
    try:
        return [add_seed_variance_to_comparison(compare_pair(run, base, reader, pairing), run, base)]
    except NotPaired as reason:
        if not pairing.is_unpaired or isinstance(reason, TooFewPairs) or run.over_seeds or base.over_seeds:
            raise
        return [compare_unpaired_accuracies(run, base, str(reason))]


def compare_pair(
    run: Run, base: Run, reader: Reader, pairing: PairingOptions = NOTHING_ELSE
) -> RunComparison:
    return compare_answers(
        run, base, (reader.load_answers(run), reader.load_baseline_answers(base)), reader, pairing
    )


def compare_answers(
    run: Run,
    base: Run,
    answers: tuple[Answers, Answers],
    reader: Reader,
    pairing: PairingOptions = NOTHING_ELSE,
) -> RunComparison:
    """Compare two runs, given their answers."""
    check_same_scoring(run, base, reader)
    of_run, of_base = answers
    shared = sorted(of_run.keys() & of_base.keys())  # in the order of the questions
    remarks = [check_runs_have_same_questions(run, base, answers, len(shared), reader)]
    pairs = cluster_questions_by_expected_function(
        shared, [(of_run[question], of_base[question]) for question in shared]
    )
    remarks += [check_runs_have_same_prompts(pairs, pairing), _engine_note(run, base)]
    if run.compared_while_running or base.compared_while_running:
        return with_notes(_compare_runs_by_sequential_test(run, base, pairs), *remarks)
    test_of = (
        partial(create_mean_difference_test, cluster_field_name=find_cluster_field(run, base, pairs))
        if needs_mean_test(pairs)
        else create_mcnemar_test
    )
    return with_notes(run_test_with_truncation_bounds(test_of, pairs), *remarks)


def check_same_scoring(run: Run, base: Run, reader: Reader) -> None:
    """Raise NotPaired if the answers of two runs were scored by different rules."""
    if get_scoring_method(run) != get_scoring_method(base):
        changed = reader.describe_rule_changes(run.task, (base.task_version, run.task_version))
        why = f" ({changed}; run the older job again)" if changed else ""
        raise NotPaired(
            f"the scoring is {get_scoring_method(run)} in the run and {get_scoring_method(base)} in the baseline{why}"
        )


def check_runs_have_same_questions(
    run: Run, base: Run, answers: tuple[Answers, Answers], num_shared: int, reader: Reader
) -> Note | None:
    """Return a note if some questions are scored in only one of the two runs.

    Raises NotPaired if the questions are not the same.
    """
    of_run, of_base = answers
    if of_run.keys() == of_base.keys():
        return None
    if (
        num_shared
        and _are_questions_excluded_by_task(run, of_base.keys() - of_run.keys(), reader)
        and _are_questions_excluded_by_task(base, of_run.keys() - of_base.keys(), reader)
    ):
        return note("paired_on_counted", shared=num_shared, here=len(of_run), there=len(of_base))
    if (run.stopped_early or base.stopped_early) and num_shared == min(len(of_run), len(of_base)):
        return None
    same_text = {key[:2] for key in of_run} == {key[:2] for key in of_base}
    what = "the gold answers differ" if same_text else f"only {num_shared} are equal"
    raise NotPaired(f"the run has {len(of_run)} questions, the baseline has {len(of_base)}, and {what}")


def check_runs_have_same_prompts(pairs: Pairs, pairing: PairingOptions) -> Note | None:
    """Return a note if some prompts of two runs differ.

    Raises NotPaired if prompts must not differ.
    """
    n = len(pairs)
    different = sum(
        outcome.prompt != base_outcome.prompt and None not in (outcome.prompt, base_outcome.prompt)
        for outcome, base_outcome in pairs
    )
    if not different:
        return None
    if not pairing.may_change_prompts:
        raise NotPaired(f"{different} of {n} questions have different prompts in the run and in the baseline")
    return note("different_prompts", different=different, n=n)


def _engine_note(run: Run, base: Run) -> Note | None:
    engine, other = run.get_value(ENGINE), base.get_value(ENGINE)
    return None if engine == other else note("different_engines", here=engine, there=other)


def _compare_runs_by_sequential_test(run: Run, base: Run, pairs: Pairs) -> RunComparison:
    """Compare two runs by the anytime-valid test. This test is used even if neither run stopped early.

    Choosing between two tests would find too many differences.
    """
    watched_run, other = (run, base) if run.early_stop_comparisons(base) else (base, run)
    final_part = watched_run.final_test_part(other)
    create_test = partial(
        create_sequential_test,
        watched_run.early_stop_comparisons(other),
        ONLY_SEQUENTIAL if final_part is None else WITH_FINAL_TEST if final_part else FINAL_TEST_USED,
        not watched_run.stopped_early and not watched_run.errors,
    )
    compared = run_test_with_truncation_bounds(create_test, pairs)
    stopped = [side.job_id for side in (run, base) if side.stopped_early]
    watched = [side.job_id for side in (run, base) if side.compared_while_running]
    remarks = [
        note("stopped_early", jobs=stopped, n=len(pairs)) if stopped else note("watched", jobs=watched)
    ]
    several = max((outcome.num_answers for pair in pairs for outcome in pair), default=1)
    if several > 1:
        remarks.append(note("of_votes", answers=several))
    if run.errors or base.errors:  # which --count-errors has let in
        remarks.append(note("errors_not_solved"))
    return with_notes(compared, *remarks)


def create_mcnemar_test(pairs: Pairs) -> McNemarTest:
    wins = sum(our.solved and not their.solved for our, their in pairs)
    losses = sum(their.solved and not our.solved for our, their in pairs)
    return McNemarTest(wins, losses, len(pairs), sum(their.solved for _, their in pairs))


def create_sequential_test(
    comparisons: int | None, parts: ErrorParts, is_at_limit: bool, pairs: Pairs
) -> SequentialTest:
    verdicts = [(our.solved, their.solved) for our, their in pairs]
    return SequentialTest(verdicts, comparisons, parts, is_at_limit)


def run_test_with_truncation_bounds(create_test: Callable[[Pairs], Test], pairs: Pairs) -> RunComparison:
    """Run a test on the recorded verdicts, and on the worst and best case for the run's truncated answers."""
    test = create_test(pairs)
    cut_off = sum(our.cut_off for our, _ in pairs), sum(their.cut_off for _, their in pairs)
    if not any(cut_off):
        return RunComparison(test)
    worst, best = (
        create_test(
            [
                (our.treat_cut_off_answers_as(right), their.treat_cut_off_answers_as(not right))
                for our, their in pairs
            ]
        )
        for right in (False, True)
    )
    return RunComparison(test, cut_off, (worst, best))


def _are_questions_excluded_by_task(run: Run, missing_questions: Set[Question], reader: Reader) -> bool:
    is_asked_less = all((part.get_value("task.only") or "null") != "null" for part in run.parts or [run])
    return not missing_questions or is_asked_less or missing_questions <= reader.find_excluded_questions(run)


def compare_unpaired_accuracies(run: Run, base: Run, reason: str) -> RunComparison:
    """Compare two accuracies from the recorded counts, without matching the questions of the two runs."""
    score, base_score = run.correct_and_total or (0, 0), base.correct_and_total or (0, 0)
    if not score[1] or not base_score[1]:
        raise NotPaired("the run or its baseline answered no question")
    if run.max_answers_per_question > 1 or base.max_answers_per_question > 1:
        raise NotPaired(f"{reason}. Unpaired comparisons require one answer per question")
    return with_notes(
        compare_unpaired_scores(score, run.accuracy_bounds, base_score, base.accuracy_bounds),
        note("unpaired", why=reason),
    )


def compare_unpaired_scores(
    score: Score, bounds: AccuracyBounds | None, base_score: Score, base_bounds: AccuracyBounds | None
) -> RunComparison:
    test = FisherTest(*score, *base_score)
    (worst, best), (base_worst, base_best) = (
        _compute_correct_answer_bounds(score, bounds),
        _compute_correct_answer_bounds(base_score, base_bounds),
    )
    if worst == best and base_worst == base_best:
        return RunComparison(test)
    n, base_n = score[1], base_score[1]
    ends = FisherTest(worst, n, base_best, base_n), FisherTest(best, n, base_worst, base_n)
    return RunComparison(test, (best - worst, base_best - base_worst), ends)


def _compute_correct_answer_bounds(score: Score, bounds: AccuracyBounds | None) -> tuple[int, int]:
    correct, n = score
    return (correct, correct) if bounds is None else (round(bounds.at_worst * n), round(bounds.at_best * n))
