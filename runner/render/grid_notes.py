"""Texts of notes on plans: predicted times, and what a grid can show."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from runner_base import format_count, format_duration
from runner_base.render.notes import Template

# ------------------------------------------------------------------------------------------- estimates

A_TENTH = "a tenth of the time that the jobs take"


def _draft_acceptance_known_text(asked: str, jobs: int, tokens: tuple[float, float]) -> str:
    low, high = (f"{end:.1f}" for end in tokens)
    span = low if low == high else f"{low} to {high}"
    known = f"as {format_count(jobs, 'finished job')} with this model had them"
    return f"generation.speculate={asked}: a pass gives a row {span} tokens, {known}"


def _draft_acceptance_unknown_text(asked: str, all_right_s: float, none_right_s: float) -> str:
    span = f"{format_duration(all_right_s)} with all guesses right, {format_duration(none_right_s)} with none"
    return f"generation.speculate={asked}: {span}; no finished job here says how many are"


def _calibrating_text(count: int, total: int, seconds: float, limit_s: float) -> str:
    most = "" if limit_s == inf else f", at most {format_duration(limit_s)}"
    return (
        f"calibrating {count} of {total} formats, about {format_duration(seconds)}{most}; "
        "each is kept for later plans on this "
        "machine; plan=quick leaves this out"
    )


ESTIMATES: dict[str, Template] = {
    "guesses_known": _draft_acceptance_known_text,
    "guesses_unknown": _draft_acceptance_unknown_text,
    "merging": lambda seconds: f"{format_duration(seconds)} of it to merge the adapter, guessed",
    "busy": "this machine is busy, {beside}: jobs may take longer than estimated",
    "not_calibrated": lambda names, limit_s: (
        f"guessed, not calibrated: {', '.join(names)}: timing them would "
        f"take more than {A_TENTH} ({format_duration(limit_s)})"
    ),
    "calibrating": _calibrating_text,
    "calibration_ended": lambda limit_s: (
        f"calibration ended after {format_duration(limit_s)}, {A_TENTH}; what is left is guessed"
    ),
}

# ----------------------------------------------------------------------------------------------- grids


def _models_text(text: str, sizes_mib: Sequence[float | None], reference: str) -> str:
    known = [size for size in sizes_mib if size is not None]
    unknown = len(sizes_mib) - len(known)
    total = f"{sum(known):,.1f} MiB" + (f" and {unknown} of unknown size" if unknown else "")
    models = f"{len(sizes_mib)} model{'s' * (len(sizes_mib) != 1)}"
    return f"{text}: {models}, {total}; reference: {reference}"


def _not_logged_text(results: int) -> str:
    are = format_count(results, "result is", "results are")
    return f"{are} on disk but not in MLflow yet: runner-sync or the same command logs them"


def _keys_left_out_text(keys: Sequence[str], choices: str) -> str:
    are, them = ("is", "it") if len(keys) == 1 else ("are", "them")
    return f"{', '.join(keys)} {are} passed to the jobs that have {them}, and left out with {choices}"


def _detectable_text(
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
        jobs = format_count(pairs, "job that is done", "jobs that are done")
        basis = f"if {disagreement:.1%} of the verdicts differ, as in {jobs}"
    else:
        basis = f"if {disagreement:.0%} of the verdicts differ, as is usual"
    bets = "; by bets, as jobs that may stop early are compared" if by_bets else ""
    others = f"{format_count(comparisons, 'comparison')}, {basis}{bets}"
    if least is not None:
        could = f"could detect a difference of {100 * least:.1f} points"
    elif may_detect_largest:
        could = "could detect only the largest difference"
    else:
        could = "are too few to detect any difference"
    if least is None:
        others += f", so that no difference is larger than {100 * disagreement:.1f} points"
    on = "" if where is None else f"{where}: "
    return f"{on}{questions:,} questions a job {could} from {' or '.join(names)} with {power:.0%} power ({others})"


def _questions_for_margin_text(
    margin: float, needed: int | None, there: int | None, jobs: int, seconds: float | None
) -> str:
    from runner_compare import format_margin_points  # few grids need it

    about = "more than ten million" if needed is None else f"about {needed:,}"
    takes = ""
    if there is not None:
        takes = f": there are only {there:,}"
    elif seconds is not None:
        these = "this job" if jobs == 1 else f"these {jobs} jobs"
        takes = f", and take {format_duration(seconds)} for {these} here"
    good = f"as good within {format_margin_points(margin)}"
    return f"    {about} questions a job would show '{good}' if neither is better{takes}"


def _overlaps_text(rivals: int) -> str:
    of_others = "that of another trial" if rivals == 1 else f"those of {rivals} other trials"
    return f"  its interval overlaps with {of_others}: these scores do not show which is best"


def _check_of_best_text(questions: int, commands: Sequence[str]) -> str:
    fresh = f"{format_count(questions, 'question')} that the search has not asked (or more, with a larger task.limit)"
    return "\n  ".join([f"  a check of it and the next best on {fresh}:", *commands])


def _added_for_others_text(jobs: int) -> str:
    needed = format_count(jobs, "job of this grid is", "jobs of this grid are")
    return f"added, because {needed} compared with it"


def _store_failed_text(store: str, reason: str, kept: object) -> str:
    safe = f" The result is kept in {kept}; the same command logs it without running it again" if kept else ""
    return f"MLflow at {store} cannot be reached or written: {reason}.{safe}"


GRIDS: dict[str, Template] = {
    "models": _models_text,
    "quantized_reference": "note: no unquantized model is among them: all are compared with {reference}, whose own "
    "loss is not seen. {key}=FILE names another one",
    "unreadable": "cannot be read: {model}: {problem}",
    "left_out": "left out: {what}",
    "grid_plan_unreadable": "the grid of run {run}, whose plan cannot be read ({reason})",
    "metrics_unreadable": "run {run} has {count} further metrics, which cannot be read: {reason}",
    "store_failed": _store_failed_text,
    "database_locked": "the database is locked by another program: close it, or wait, and run again",
    "store_not_writable": "{reason}. Give a store you may write: tracking.uri=sqlite:////PATH.db, or tracking=none",
    "nothing_to_fetch": "nothing to fetch: all finished jobs are in {folder}",
    "part_of_model": "{path} is a part of a model: llama-gguf-split --merge makes one file of them",
    "no_language_model": "{path} is no language model ({kind})",
    "done_elsewhere": "another host has done it: its result will come from {store}",
    "nothing_to_ask": "every answer is recorded: the texts are judged, and nothing is decoded",
    "fewer_questions": "task.limit={limit}: only {count:,} questions are there: all of them are asked",
    "added_for_others": _added_for_others_text,
    "not_logged": _not_logged_text,
    "keys_left_out": _keys_left_out_text,
    "gpu_lost": "{gpus} cannot be used any more by its worker: {reason}",
    "detectable": _detectable_text,
    "questions_for_margin": _questions_for_margin_text,
    "clusters_not_planned": "task.cluster={cluster}: verdicts count clusters, and no plan says how many questions "
    "would decide",
    "overlaps": _overlaps_text,
    "all_asked": "  the search has asked all questions: to compare them, take others, e.g. another task.split",
    "check_of_best": _check_of_best_text,
}
