"""What may be concluded over all rows of a table, in one line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from runner_compare.cut_offs import is_open
from runner_compare.data import TableRow
from runner_compare.effect_words import asked_of, if_alike, quantity, unit_of
from runner_compare.findings import joined, label, range_of
from runner_compare.quantities import LIKELIHOODS, Quantity, what_shows_more
from runner_compare.statistics import Decision, MarginVerdict
from runner_compare.wording import about

TARGETS = (
    0.05,
    0.02,
    0.01,
    0.005,
)  # differences of accuracies for which a number of questions is given


def conclude(rows: Sequence[TableRow]) -> str:
    """Return what may be concluded over all rows; empty if nothing was to be compared."""
    families: dict[str, list[Decision]] = {}
    for it in (it for row in rows for it in row.effects):
        families.setdefault("repeats" if it.is_ratio else it.measure, []).append(it)
    parts = [_of_family(family) for family in families.values()]
    skipped = sum(row.note is not None for row in rows)
    if skipped:
        compared = ("further " if parts else "") + f"row{'s' * (skipped != 1)}"
        parts.append(f"{skipped} {compared} could not be compared")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _of_family(family: Sequence[Decision]) -> str:
    counts = Counter(map(label, sorted(family, key=_rank)))
    total, undecided = len(family), [it for it in family if is_open(it)]
    if len(undecided) == total:
        text = (
            "the one comparison is not decided"
            if total == 1
            else f"of {total} comparisons none is decided"
        )
    elif total == 1:
        text = f"one comparison: the row is {label(family[0])}"
    else:
        shown = [f"{n} {'is' if n == 1 else 'are'} {label}" for label, n in counts.items()]
        text = f"of {total} comparisons {joined(shown)}"
    return text + _what_would_decide(undecided)


def _rank(it: Decision) -> tuple[int, str]:
    """Return a sort key: better rows first, undecided ones last, so that the words about them can
    follow."""
    verdicts = [
        MarginVerdict.better,
        MarginVerdict.as_good,
        MarginVerdict.worse_but_within,
        MarginVerdict.worse_by_more,
    ]
    if is_open(it):
        return len(verdicts) + 1, ""
    return (verdicts.index(it.verdict) if it.verdict in verdicts else len(verdicts)), str(
        it.finding
    )


def _what_would_decide(undecided: Sequence[Decision]) -> str:
    """Say what the undecided comparisons could have shown, and how many questions would decide."""
    if not undecided or any(it.is_ratio for it in undecided):
        return ""
    if all(it.unplanned for it in undecided):
        return f" ({', '.join(dict.fromkeys(it.unplanned for it in undecided))}: more questions would not decide)"
    of = quantity(undecided[0])
    counted = asked_of(undecided[0])
    if undecided[0].verdict is not None:
        needed = [it.needed for it in undecided]
        most = max((it for it in needed if it is not None), default=None)
        if most is None or None in needed:
            return ""
        return f" (about {about(most)} {counted} in all would decide {if_alike(undecided[0])})"
    if any(
        not it.test.knows_power for it in undecided
    ):  # it stopped early: the number of questions was not planned
        return ""
    asked = range_of([f"{it.n:,}" for it in sorted(undecided, key=lambda it: it.n)])
    if any(it.detectable is None for it in undecided):
        could = f"{asked} {counted} are too few to show any difference"
    else:
        detectable = sorted(it.detectable for it in undecided if it.detectable is not None)
        found = range_of([of.write_detectable(one) for one in detectable])
        could = f"{asked} {counted} could only detect {found} {unit_of(undecided[0])}"
    tells_more = {it.tells_more for it in undecided}
    if len(tells_more) == 1 and (more := tells_more.pop()):
        return f": {could} ({more})"
    return f": {could}{_enough(undecided, of)}"


def _enough(undecided: Sequence[Decision], of: Quantity) -> str:
    """Say how many questions would detect a smaller difference, in the comparison that needs most
    of them."""
    if of is LIKELIHOODS:
        return ""  # no difference in nats is small for every model
    hardest = max(undecided, key=lambda it: math.inf if it.detectable is None else it.detectable)
    if not hardest.can_plan_detection:
        return what_shows_more(hardest)
    for target in TARGETS:
        if hardest.detectable is not None and target >= hardest.detectable:
            continue
        needed = hardest.test.needs_to_detect(target, hardest.level)
        if needed is not None and needed > hardest.n:
            return f"; about {about(needed)} would do for {100 * target:g}"
    return ""
