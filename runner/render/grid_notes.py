"""Texts of notes on plans: predicted times, and the statistical power of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from runner_base import format_count, format_duration
from runner_base.render.notes import Template

# ------------------------------------------------------------------------------------------- estimates

A_TENTH = "10 % of the jobs' time"


def _format_measured_tokens_per_pass(asked: str, jobs: int, tokens: tuple[float, float]) -> str:
    low, high = (f"{end:.1f}" for end in tokens)
    span = low if low == high else f"{low} to {high}"
    finished = format_count(jobs, "finished job")
    return f"generation.speculate={asked}: this model generated {span} tokens per pass in {finished}"


def _format_unknown_acceptance(asked: str, all_right_s: float, none_right_s: float) -> str:
    span = (
        f"{format_duration(all_right_s)} if all draft tokens are "
        f"accepted, {format_duration(none_right_s)} if none are accepted"
    )
    return f"generation.speculate={asked}: the job takes {span}. The acceptance rate is unknown"


def _format_calibration_start(count: int, total: int, seconds: float, limit_s: float) -> str:
    limit = "" if limit_s == inf else f", at most {format_duration(limit_s)}"
    return (
        f"measuring the speed of {count} of {total} formats takes about {format_duration(seconds)}{limit}. "
        "Later plans on this machine reuse the results. plan=quick skips this"
    )


ESTIMATES: dict[str, Template] = {
    "guesses_known": _format_measured_tokens_per_pass,
    "guesses_unknown": _format_unknown_acceptance,
    "merging": lambda seconds: (
        f"merging the adapter takes about {format_duration(seconds)} of this time (rough estimate)"
    ),
    "busy": "this machine is busy ({beside}). Jobs may take longer than estimated",
    "not_calibrated": lambda names: (
        f"times of {', '.join(names)} are rough estimates, because no speed is recorded. "
        f"Measuring speeds would take more than {A_TENTH}"
    ),
    "calibrating": _format_calibration_start,
    "calibration_ended": lambda limit_s: (
        f"speed measurements ended after {format_duration(limit_s)}, {A_TENTH}. "
        "The times of the other formats are rough estimates"
    ),
}

# ----------------------------------------------------------------------------------------------- grids


def _summarize_model_list(text: str, sizes_mib: Sequence[float | None], reference: str) -> str:
    known = [size for size in sizes_mib if size is not None]
    unknown = len(sizes_mib) - len(known)
    total = f"{sum(known):,.1f} MiB" + (f" and {unknown} of unknown size" if unknown else "")
    models = f"{len(sizes_mib)} model{'s' * (len(sizes_mib) != 1)}"
    return f"{text}: {models}, {total}; reference: {reference}"


def _format_not_logged(results: int) -> str:
    are, them = ("result is", "it") if results == 1 else ("results are", "them")
    return f"{results} {are} missing in MLflow. To log {them}, run runner-sync or the same command again"


def _format_ignored_keys(keys: Sequence[str], choices: str) -> str:
    such = "this key" if len(keys) == 1 else "these keys"
    return f"{', '.join(keys)}: jobs with {choices} ignore the override, because they lack {such}"


def _format_smallest_detectable_difference(
    where: str | None,
    questions: int,
    names: Sequence[str],
    power: float,
    least: float | None,
    may_detect_largest: bool,
    comparisons: int,
    disagreement: float,
    pairs: int,
    by_bets: bool,
) -> str:
    if pairs:
        basis = f"{disagreement:.1%} of verdicts differ, as measured in {format_count(pairs, 'finished job')}"
    else:
        basis = f"{disagreement:.0%} of verdicts differ, a typical value"
    bets = ", anytime-valid tests (early stopping)" if by_bets else ""
    if least is not None:
        could = f"{questions:,} questions per job can detect a difference of {100 * least:.1f} points"
    elif may_detect_largest:
        could = f"{questions:,} questions per job can detect only the largest possible difference"
    else:
        could = f"{questions:,} questions per job are too few to detect any difference"
    limit = (
        f", so {100 * disagreement:.1f} points is the largest possible difference" if least is None else ""
    )
    on = "" if where is None else f"{where}: "
    return (
        f"{on}{could} from {' or '.join(names)} with {power:.0%} power. Assumptions: "
        f"{format_count(comparisons, 'comparison')}{bets}; {basis}{limit}"
    )


def _format_questions_needed_for_margin(
    margin: float, needed: int | None, there: int | None, jobs: int, seconds: float | None
) -> str:
    from runner_compare import format_margin_points  # few grids need it

    about = "more than ten million" if needed is None else f"about {needed:,}"
    takes = ""
    if there is not None:
        takes = f", but there are only {there:,}"
    elif seconds is not None:
        these = "this job takes" if jobs == 1 else f"these {jobs} jobs take"
        takes = f"; {these} {format_duration(seconds)} then"
    good = f"no loss above {format_margin_points(margin)}"
    return f"    a job needs {about} questions to show '{good}' between equal models{takes}"


def _overlaps_text(rivals: int) -> str:
    others = "that of another trial" if rivals == 1 else f"those of {rivals} other trials"
    return (
        f"  not decided: its interval overlaps with {others}, so these scores do not show which one is best"
    )


def _check_of_best_text(questions: int, commands: Sequence[str]) -> str:
    fresh = f"{format_count(questions, 'question')} that the search has not used (task.limit sets the number)"
    return "\n  ".join([f"  To check the best trial and the next best on {fresh}:", *commands])


def _added_for_others_text(jobs: int) -> str:
    compared = format_count(jobs, "job of this grid is", "jobs of this grid are")
    return f"added, because {compared} compared with it"


def _store_failed_text(store: str, reason: str, kept: object) -> str:
    safe = (
        f" The result is kept in {kept}: run the same command to log it without running the job again"
        if kept
        else ""
    )
    return f"cannot write to MLflow at {store}: {reason}.{safe}"


GRIDS: dict[str, Template] = {
    "models": _summarize_model_list,
    "quantized_reference": "note: the reference {reference} is itself quantized, so its own loss is unknown. "
    "{key}=FILE selects another reference",
    "unreadable": "{model} cannot be read: {problem}",
    "left_out": "left out: {what}",
    "grid_plan_unreadable": "the plan in the grid's MLflow run {run} cannot be read ({reason})",
    "metrics_unreadable": "run {run}: {count} more metrics cannot be read ({reason})",
    "store_failed": _store_failed_text,
    "database_locked": "the database is locked by another program. Close that program, or wait and run again",
    "store_not_writable": "{reason}. Choose a store that you can write: tracking.uri=sqlite:////PATH.db, or "
    "tracking=none",
    "nothing_to_fetch": "nothing to fetch: {folder} already contains all finished jobs",
    "part_of_model": "{path} is one part of a model. Join the parts into one file with llama-gguf-split --merge",
    "no_language_model": "{path} is not a language model ({kind})",
    "done_elsewhere": "another host has finished this job. The result is read from {store}",
    "nothing_to_ask": "all answers are recorded. The job only judges these answers again",
    "fewer_questions": "task.limit={limit}: the data set has only {count:,} questions. All are used",
    "added_for_others": _added_for_others_text,
    "not_logged": _format_not_logged,
    "keys_left_out": _format_ignored_keys,
    "gpu_lost": "the worker cannot use {gpus} any more: {reason}",
    "detectable": _format_smallest_detectable_difference,
    "questions_for_margin": _format_questions_needed_for_margin,
    "clusters_not_planned": (
        "the statistical power is unknown, because questions of one cluster (task.cluster={cluster}) are "
        "not independent"
    ),
    "overlaps": _overlaps_text,
    "all_asked": "  the search has used all questions: compare its trials on others, e.g. another task.split",
    "check_of_best": _check_of_best_text,
}
