"""Render the conclusion over all rows of a table in one line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from runner_compare.model.data import TableRow
from runner_compare.render.effects import planning_assumption, sample_unit
from runner_compare.render.findings import finding_label, format_range, join_words
from runner_compare.render.labels import format_count_interval, format_rounded_count
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import LIKELIHOODS, Quantity, effect_unit, find_quantity, more_data_hint
from runner_compare.statistics import POWER, Decision, MarginVerdict

# differences of accuracies for which a number of questions is given
TARGETS = (0.05, 0.02, 0.01, 0.005)


def conclusion_text(rows: Sequence[TableRow]) -> str:
    """Return the conclusion over all rows; "" if nothing was compared."""
    families: dict[str, list[Decision]] = {}
    for decision in (effect for row in rows for effect in row.effects):
        families.setdefault("repeats" if decision.is_ratio else decision.measure, []).append(decision)
    parts = [_family_conclusion(family) for family in families.values()]
    skipped = sum(row.note is not None for row in rows)
    if skipped:
        compared = ("further " if parts else "") + f"row{'s' * (skipped != 1)}"
        parts.append(f"{skipped} {compared} could not be compared")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _family_conclusion(family: Sequence[Decision]) -> str:
    counts = Counter(map(finding_label, sorted(family, key=_sort_key)))
    total, undecided = len(family), [decision for decision in family if decision.is_undecided]
    if len(undecided) == total:
        text = (
            "the one comparison is not decided" if total == 1 else f"of {total} comparisons none is decided"
        )
    elif total == 1:
        text = f"one comparison: the row is {finding_label(family[0])}"
    else:
        shown = [f"{n} {'is' if n == 1 else 'are'} {label}" for label, n in counts.items()]
        text = f"of {total} comparisons {join_words(shown)}"
    return text + _planning_text(undecided)


def _sort_key(decision: Decision) -> tuple[int, str]:
    """Sort key: better rows first, undecided ones last."""
    verdicts = [
        MarginVerdict.better,
        MarginVerdict.as_good,
        MarginVerdict.worse_but_within,
        MarginVerdict.worse_by_more,
    ]
    if decision.is_undecided:
        return len(verdicts) + 1, ""
    if decision.verdict not in verdicts:
        return len(verdicts), str(decision.finding)
    return verdicts.index(decision.verdict), str(decision.finding)


def _planning_text(undecided: Sequence[Decision]) -> str:
    """Describe the detectable difference of undecided comparisons, and how many questions decide."""
    if not undecided or any(decision.is_ratio for decision in undecided):
        return ""
    why = dict.fromkeys(render_notes(decision.unplanned) for decision in undecided)
    if all(why):
        return f" ({', '.join(why)}: more questions would not decide)"
    of = find_quantity(undecided[0])
    counted = sample_unit(undecided[0])
    if undecided[0].verdict is not None:
        if any(decision.needed is None for decision in undecided):
            return ""
        hardest = max(undecided, key=lambda decision: decision.needed or 0)
        most = format_count_interval(hardest.needed or 0, hardest.needed_interval)
        return (
            f" (about {most} {counted} of each, those so far included, would decide with {100 * POWER:g} % "
            f"power {planning_assumption(undecided[0])})"
        )
    # it stopped early: the number of questions was not planned
    if any(not decision.test.knows_power for decision in undecided):
        return ""
    asked = format_range(
        [f"{decision.n:,}" for decision in sorted(undecided, key=lambda decision: decision.n)]
    )
    if any(decision.detectable is None for decision in undecided):
        could = f"{asked} {counted} are too few to show any difference"
    else:
        detectable = sorted(decision.detectable for decision in undecided if decision.detectable is not None)
        found = format_range([of.write_detectable(difference) for difference in detectable])
        could = f"{asked} {counted} detect only differences from {found} {effect_unit(undecided[0])} up"
    tells_more = {render_notes(decision.tells_more) for decision in undecided}
    if len(tells_more) == 1 and (more := tells_more.pop()):
        return f": {could} ({more})"
    return f": {could}{_needed_questions_text(undecided, of)}"


def _needed_questions_text(undecided: Sequence[Decision], quantity: Quantity) -> str:
    """Return how many questions would detect a smaller difference, in the hardest comparison."""
    if quantity is LIKELIHOODS:
        return ""  # no difference in nats is small for every model
    hardest = max(
        undecided, key=lambda decision: math.inf if decision.detectable is None else decision.detectable
    )
    if not hardest.can_plan_detection:
        return more_data_hint(hardest)
    for target in TARGETS:
        if hardest.detectable is not None and target >= hardest.detectable:
            continue
        needed = hardest.test.sample_size_to_detect(target, hardest.strictest_level)
        if needed is not None and needed > hardest.n:
            return f"; about {format_rounded_count(needed)} in all would detect {100 * target:g} points"
    return ""
