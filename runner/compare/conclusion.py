"""What may be concluded over all rows of a table, in one line; and rows that show the same, in one sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from runner.compare.data import TableRow
from runner.compare.effect_words import (
    METHODS,
    asked_of,
    fill,
    if_alike,
    margin_words,
    p_value,
    quantity,
)
from runner.compare.quantities import LIKELIHOODS, Quantity, what_shows_more
from runner.compare.wording import about, sides
from runner.core.effects import Effect, Finding
from runner.core.margins import MarginVerdict
from runner.core.stats import ALPHA

TARGETS = (0.05, 0.02, 0.01, 0.005)  # differences of accuracies for which a number of questions is given
MAX_NAMES = 8  # that a sentence for several rows lists


def conclude(rows: Sequence[TableRow]) -> str:
    """Return what may be concluded over all rows; empty if nothing was to be compared."""
    families: dict[str, list[Effect]] = {}
    for it in (it for row in rows for it in row.effects):
        families.setdefault("repeats" if it.is_ratio else it.measure, []).append(it)
    parts = [_of_family(family) for family in families.values()]
    skipped = sum(row.note is not None for row in rows)
    if skipped:
        compared = "further " * bool(parts) + f"row{'s' * (skipped != 1)}"
        parts.append(f"{skipped} {compared} could not be compared")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _of_family(family: Sequence[Effect]) -> str:
    counts = Counter(map(_label, sorted(family, key=_rank)))
    total, undecided = len(family), [it for it in family if _is_open(it)]
    if len(undecided) == total:
        text = "the one comparison is not decided" if total == 1 else f"of {total} comparisons none is decided"
    elif total == 1:
        text = f"one comparison: the row is {_label(family[0])}"
    else:
        text = f"of {total} comparisons {_joined([f'{n} {_is(n)} {label}' for label, n in counts.items()])}"
    return text + _what_would_decide(undecided)


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _rank(it: Effect) -> tuple[int, str]:
    """Return a sort key: better rows first, undecided ones last, so that the words about them can follow."""
    verdicts = [
        MarginVerdict.better,
        MarginVerdict.as_good,
        MarginVerdict.worse_but_within,
        MarginVerdict.worse_by_more,
    ]
    if _is_open(it):
        return len(verdicts) + 1, ""
    return (verdicts.index(it.verdict) if it.verdict in verdicts else len(verdicts)), str(it.finding)


def _is_open(it: Effect) -> bool:
    """Whether neither a difference nor, with a margin, anything about the margin is shown."""
    return it.finding is Finding.open and it.verdict in (None, MarginVerdict.undecided)


def _label(it: Effect) -> str:
    """Return what is shown of one row, to follow `is` or `are`."""
    if it.verdict is None or it.verdict is MarginVerdict.better:
        return "undecided" if it.finding is Finding.open else str(it.finding)
    within = margin_words(it)
    if it.verdict is MarginVerdict.undecided:
        return (
            f"undecided within {within}"
            if it.finding is Finding.open
            else f"{it.finding}, perhaps by more than {within}"
        )
    return {
        MarginVerdict.as_good: f"as good within {within}",
        MarginVerdict.worse_but_within: f"worse by less than {within}",
        MarginVerdict.worse_by_more: f"worse by more than {within}",
    }[it.verdict]


def _what_would_decide(undecided: Sequence[Effect]) -> str:
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
    if any(it.detects is None for it in undecided):  # it stopped early: the number of questions was not planned
        return ""
    asked = _range([f"{it.n:,}" for it in sorted(undecided, key=lambda it: it.n)])
    if any(it.detectable is None for it in undecided):
        could = f"{asked} {counted} are too few to show any difference"
    else:
        detectable = sorted(it.detectable for it in undecided if it.detectable is not None)
        unit = fill(of.unit, undecided[0])
        could = f"{asked} {counted} could only detect {_range([of.write_detectable(one) for one in detectable])} {unit}"
    return f": {could}{_enough(undecided, of)}"


def _enough(undecided: Sequence[Effect], of: Quantity) -> str:
    """Say how many questions would detect a smaller difference, in the comparison that needs most of them."""
    if of is LIKELIHOODS:
        return ""  # no difference in nats is small for every model
    hardest = max(undecided, key=lambda it: math.inf if it.detectable is None else it.detectable)
    if hardest.needs_to_detect is None:
        return what_shows_more(hardest)
    for target in TARGETS:
        if hardest.detectable is not None and target >= hardest.detectable:
            continue
        needed = hardest.needs_to_detect(target, ALPHA / hardest.comparisons)
        if needed is not None and needed > hardest.n:
            return f"; about {about(needed)} would do for {100 * target:g}"
    return ""


def _range(values: Sequence[str]) -> str:
    """Return the first and the last of sorted values: `20`, `3.2 to 7.7`."""
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _joined(words: Sequence[str]) -> str:
    """Return words as a list: `a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def merge_sentences(rows: Sequence[TableRow], keys: list[str]) -> None:
    """Give rows that show the same one sentence: the first of them has it, the others have none."""
    groups: dict[tuple[object, ...], list[TableRow]] = {}
    for row in rows:
        same = _what_it_says(row, keys)
        if same is not None:
            groups.setdefault(same, []).append(row)
    for members in groups.values():
        if len(members) > 1:
            for row in members[1:]:
                row.sentence = ""
            members[0].sentence = _of_rows(members, keys)


def _what_it_says(row: TableRow, keys: list[str]) -> tuple[object, ...] | None:
    """Return what rows have to share to get one sentence; None for a finding, which has a sentence of its own."""
    it = row.effect
    if row.note is not None or it is None or it.finding is not Finding.open:
        return None
    _, theirs, shared = sides(row, keys)
    return (
        theirs,
        shared,
        it.method,
        it.n,
        it.baseline_n,
        it.verdict,
        it.detects is None,
        it.unplanned,
        it.remark,
        it.counts.get("size"),
    )


def _of_rows(rows: Sequence[TableRow], keys: list[str]) -> str:
    """Return the sentence of several rows that show no difference: the largest one, and what they could have shown."""
    effects = [it for row in rows if (it := row.effect)]
    names = [sides(row, keys)[0] for row in rows]
    largest = max(effects, key=lambda it: abs(it.value))
    words, of = METHODS[largest.method], quantity(largest)
    unit = fill(of.unit, largest)
    _, theirs, shared = sides(rows[0], keys)
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    ps = f"p={p_value(largest.p)}, Holm {p_value(largest.p_holm)}".replace("=<", "<")
    text = (
        f"{_joined([*names[:MAX_NAMES], *more])} vs {theirs}{f' on {shared}' * bool(shared)} "
        f"(n={fill(words.sample, largest)} each): {largest.finding}; the largest Δ is {of.write(largest.value)} {unit} "
        f"({names[effects.index(largest)]}, {words.interval} {of.write(largest.low)}..{of.write(largest.high)}, {ps})"
    )
    if largest.unplanned:
        text += f"; {largest.unplanned}, so more questions would not decide"
    elif largest.detects is None:
        decided = "undecided" if largest.verdict is None else _of_margin(effects)
        text += f"; {decided} after {largest.n:,} questions"
    elif any(it.detectable is None for it in effects):
        text += f"; {largest.n:,} questions are too few to show any difference"
    else:
        detectable = sorted(it.detectable for it in effects if it.detectable is not None)
        text += f"; {of.power} power to detect {_range([of.write_detectable(one) for one in detectable])} {unit}"
        text += what_shows_more(largest)
    if largest.verdict is not None and largest.detects is not None:
        text += f"; {_of_margin(effects)}"
    return f"{text}; {largest.remark}" if largest.remark else text


def _of_margin(effects: Sequence[Effect]) -> str:
    """Return what all of these effects show about the margin, with the questions that would decide."""
    label = _label(effects[0])
    needed = sorted(it.needed for it in effects if it.needed is not None)
    if not needed or len(needed) < len(effects):
        return label
    count = f"{_range([about(one) for one in needed])} {asked_of(effects[0])}"
    return f"{label} ({if_alike(effects[0])}, about {count} would decide)"
