"""Formats messages about answers that were cut off or that the extractor could not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runner_base import join_first_names
from runner_compare.metrics import format_number
from runner_compare.statistics.floor_effects import LIMIT, count_cut_off_answers
from runner_compare.statistics.unread_answers import ENDED, EXTRACTOR, FOUND, SCORER

NOTED_SHARE = 0.1  # of the answers: from this share on, the score changes noticeably
BROADEST = "flexible"  # finds an answer wherever one of the others does
NOTED_ANSWERS = 2  # one answer without a mark happens to every model
MAX_NAMED = 8


def format_cut_off_message(metrics: Mapping[str, float], params: Mapping[str, str]) -> str:
    """Return a message if 10 % or more of the answers were cut off; otherwise ""."""
    cut_off, answers = count_cut_off_answers(metrics)
    if not answers or cut_off / answers < NOTED_SHARE:
        return ""
    at, fix = (
        (f" at {limit} tokens", f"raise {LIMIT}") if (limit := params.get(LIMIT)) else ("", "raise its limit")
    )
    if metrics.get("stopped_by_context", 0) >= cut_off:  # no larger limit would help
        at, fix = (
            " where the model's context is full",
            "shorten the prompts, or extend the context (rope=yarn)",
        )
    what = " answers" if answers > metrics["n"] else ""
    return f"{cut_off:,.0f} of {answers:,.0f}{what} cut off{at}: {fix}"


def format_unextracted_answers_message(
    jobs: Iterable[tuple[str, Mapping[str, float], Mapping[str, str]]],
) -> str:
    """Return a message if the extractor of a job could read only few answers; otherwise "".

    Each job is given as name, metrics and params. A single job needs no name.
    """
    by_rule: dict[str, list[str]] = {}
    for name, metrics, params in jobs:
        rule = params.get(EXTRACTOR, "")
        if params.get(SCORER, "null") != "null" or f"{FOUND}{rule}" not in metrics or rule == BROADEST:
            continue
        ended, found, by_other = (metrics[ENDED], metrics[f"{FOUND}{rule}"], metrics[f"{FOUND}{BROADEST}"])
        if by_other - found >= max(NOTED_ANSWERS, NOTED_SHARE * ended):
            counts = f"{format_number(found)} of {format_number(ended)} against {format_number(by_other)}"
            accuracy = f"accuracy by {BROADEST}: {metrics[f'accuracy/{BROADEST}']:.1%}"
            run = f"{name}: " if name else ""
            by_rule.setdefault(rule, []).append(f"{run}{counts} ({accuracy})")
    if not by_rule:
        return ""
    each = (
        (
            f"{EXTRACTOR}={rule} finds fewer answers in complete texts "
            f"than {BROADEST}: {join_first_names(rows, MAX_NAMED)}"
        )
        for rule, rows in by_rule.items()
    )
    return f"{'. '.join(each)}. To score the recorded texts again, repeat the command with {EXTRACTOR}={BROADEST}"
