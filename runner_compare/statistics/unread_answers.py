"""A score that says how answers are written: the rule that judges found nothing in answers where
another one did.

Only answers that ended by themselves count here: of those that a limit has cut off,
floor_effects.py speaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runner_base import few
from runner_compare.metrics import number

ENDED = "answers_ended"  # a metric: so many answers ended by themselves
FOUND = "answers_found/"  # and its extractor: in so many of these it found an answer
EXTRACTOR, SCORER = "task.extractor", "task.scorer"
BROADEST = "flexible"  # finds an answer wherever one of the others does
NOTED_SHARE = 0.1  # of the answers; fewer hardly change the score
NOTED_ANSWERS = 2  # one answer without a mark happens to every model
MAX_NAMED = 8


def unread_note(jobs: Iterable[tuple[str, Mapping[str, float], Mapping[str, str]]]) -> str:
    """Say of which jobs, by name, metrics and params, the rule that judges reads few answers; empty
    if of none. The only job needs no name."""
    by_rule: dict[str, list[str]] = {}
    for name, metrics, params in jobs:
        rule = params.get(EXTRACTOR, "")
        if params.get(SCORER, "null") != "null" or f"{FOUND}{rule}" not in metrics or rule == BROADEST:
            continue
        ended, found, by_other = (metrics[ENDED], metrics[f"{FOUND}{rule}"], metrics[f"{FOUND}{BROADEST}"])
        if by_other - found >= max(NOTED_ANSWERS, NOTED_SHARE * ended):
            counts = f"in {number(found)} of {number(ended)} against {number(by_other)}"
            accuracy = f"accuracy by {BROADEST}: {metrics[f'accuracy/{BROADEST}']:.1%}"
            row = f"row {name}: " if name else ""
            by_rule.setdefault(rule, []).append(f"{row}{counts} ({accuracy})")
    if not by_rule:
        return ""
    each = (
        f"of the texts that ended, {EXTRACTOR}={rule} finds an answer in fewer than {BROADEST} does: "
        f"{few(rows, MAX_NAMED)}"
        for rule, rows in by_rule.items()
    )
    return (
        f"{'. '.join(each)}. The same command with {EXTRACTOR}={BROADEST} judges the recorded texts again, without "
        "decoding"
    )
