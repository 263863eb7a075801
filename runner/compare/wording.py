"""A comparison as text: numbers, names, findings that claim no more than the test shows, a table's columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from runner.compare.data import ABSENT, Comparison, Finding, Flips, Method, Row, Table, label
from runner.compare.front import ACCURACY_MARGIN, LEVEL
from runner.compare.pairing import ALPHA, repeats_needed
from runner.core.metrics import FRONT, HEADLINES, METRICS, OF_SCORED, SHOWN_IF_ANY, points

MOST_DOMINATED = 8  # rows that a sentence names


def natural(value: str | None) -> tuple[int, float, str]:
    """Sort key: absent, then numbers by size, then words."""
    try:
        return (0, 0.0, "") if value is None else (1, float(value), "")
    except ValueError:
        return 2, 0.0, str(value)


def p_value(p: float) -> str:
    """Return p to two digits, e.g. 0.77, 0.0042, <0.0001."""
    return "<0.0001" if p < 0.0001 else "1.0" if p > 0.995 else f"{p:.2g}"


def number(value: float | None) -> str:
    """Return a measurement to three digits or to the unit: 0.0123, 4.57, 1,234."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def at_least(difference: float | None) -> str:
    """Return a smallest difference in points, rounded up so that the promise holds; absent where there is none."""
    return ABSENT if difference is None else f"{math.ceil(1000 * difference) / 10:.1f}"


def assignments(row: Row, keys: list[str]) -> str:
    """Return what a row was run with: quantization=nf4, seed=1."""
    return ", ".join(f"{label(key)}={row.config[key]}" for key in keys if row.config[key] is not None)


def name_of(row: Row, keys: list[str]) -> str:
    """Return the shortest name that tells a row from the others: its values, or its job."""
    values = [
        f"{row.config[key]}" if key.endswith(".name") else f"{label(key)}={row.config[key]}"
        for key in keys
        if row.config[key] is not None
    ]
    return " ".join(values) or row.run.job_id


def versus(row: Row, keys: list[str]) -> str:
    """Return what is compared, and at the end the keys in which both agree: `nf4 vs none on task.split=test`."""
    ours, theirs, shared = sides(row, keys)
    return f"{ours} vs {theirs}{f' on {shared}' if shared else ''}"


def sides(row: Row, keys: list[str]) -> tuple[str, str, str]:
    """Return a run's and its baseline's name by the keys in which they differ, and the other keys."""
    base = row.baseline
    assert base is not None
    own = [key for key in keys if row.config[key] != base.config[key]]
    shared = assignments(row, [key for key in keys if key not in own])
    ours, theirs = (assignments(side, own) or side.run.job_id for side in (row, base))
    both = [key for key in own if row.config[key] is not None and base.config[key] is not None]
    if len(both) == 1 and both[0].endswith(".name"):  # `nf4 vs none`, the keys that only one has in brackets
        more = [key for key in own if key not in both]
        ours, theirs = (f"{it.config[both[0]]} ({assignments(it, more)})".removesuffix(" ()") for it in (row, base))
    return ours, theirs, shared


def sentence(row: Row, keys: list[str]) -> str:
    """Return one row's finding in words; empty for a baseline, and where a table of ratios says it."""
    if row.note is not None:
        return f"{assignments(row, keys) or row.run.job_id}: not compared, {row.note}"
    it = row.comparison
    if it is None:
        return _few_repeats(row, keys) if row.ratios else ""
    by_bets = it.method is Method.sequential
    kind = "always-valid " if by_bets else ""
    n = f"{it.baseline_n if by_bets else row.run.score[1] if row.run.score else 0:,}"
    low, high = points(it.difference_low), points(it.difference_high)
    ps = f"p={p_value(it.p)}, Holm {p_value(it.p_holm)}".replace("=<", "<")
    sizes = f"{n} and {it.baseline_n:,}, Fisher's exact test" if it.method is Method.fisher else n
    text = (
        f"{versus(row, keys)} (n={sizes}): {it.finding} "
        f"(Δ {points(it.difference)} points, {kind}95 % interval {low}..{high}, {ps})"
    )
    if it.finding is Finding.open and by_bets:
        text += f"; undecided after {n} questions"
    elif it.finding is Finding.open and it.detectable_difference is None:
        text += f"; {n} questions are too few to show any difference"
    elif it.finding is Finding.open:
        least = at_least(it.detectable_difference)
        text += f"; a true difference of ≥ {least} points would have been seen at least 4 times in 5"
    return f"{text}; {it.remark}" if it.remark else text


def _few_repeats(row: Row, keys: list[str]) -> str:
    """Say where repeats are too few for the test to show anything, however far apart they are."""
    fewest = min(min(it.repeats, it.baseline_repeats) for it in row.ratios)
    family = max(it.comparisons for it in row.ratios)
    needed = repeats_needed(family)
    if fewest >= needed:
        return ""
    return (
        f"{versus(row, keys)}: {fewest} repeat{'s' * (fewest != 1)} a side cannot show a "
        f"difference in {family} comparison{'s' * (family != 1)}; task.repeats={needed} can"
    )


def summary(table: Table) -> str:
    """Return the legend under a table with comparisons."""
    compared = [row.comparison for row in table.rows if row.comparison]
    parts = []
    if compared:
        paired = "wins/losses/ties and p (McNemar, exact) are paired on the same questions"
        parts.append(f"Δ in percentage points, {paired};")
        if any(it.method is Method.fisher for it in compared):
            parts.append("rows without wins are unpaired (Newcombe's interval, Fisher's exact test);")
        if any(it.method is Method.sequential for it in compared):
            parts.append("where a run stopped early, p and interval come from bets and hold all the same;")
        parts.append(
            f"Holm: p adjusted for the {len(compared)} comparison{'s' * (len(compared) != 1)} of this table. "
            "Intervals hold 95 % each."
        )
    if table.has_ratios:
        parts.append(
            "Ratios are of medians over the repeats, with a bootstrap interval that holds 95 %; p: exact rank-sum "
            f"test, Holm over the comparisons of one figure, {ALPHA:g} decides."
        )
    if table.axes:
        parts.append(front_rule(table))
    return " ".join(parts)


def front_rule(table: Table) -> str:
    """Return what makes a row dominated."""
    axes = " and ".join(FRONT[axis] for axis in table.axes)
    noise = [f"{words} in {FRONT[axis]} ({axis})" for axis, words in table.noise.items()]
    pairs = f"{table.front_pairs} pair{'s' * (table.front_pairs != 1)}"
    return (
        "Pareto: a row is dominated where another one is as accurate (as measured, or with an interval of the "
        f"difference that includes 0 and no loss of {100 * ACCURACY_MARGIN:.0f} points), is not worse beyond noise in "
        f"{axes}, and is better beyond noise somewhere. Noise: up to {' and '.join(noise)}; in accuracy, what the "
        f"exact test does not show at {LEVEL:g}, Bonferroni over {pairs}."
    )


def dominated(table: Table) -> str:
    """Return which rows are dominated, by which others and in what; empty where none is."""
    rows = [row for row in table.rows if row.dominated_by]
    if not rows:
        return ""
    shown = [_dominated(row, table) for row in rows[:MOST_DOMINATED]]
    more = f"; and {len(rows) - len(shown)} more" if len(shown) < len(rows) else ""
    return f"dominated beyond noise: {'; '.join(shown)}{more}"


def _dominated(row: Row, table: Table) -> str:
    other = table.row(row.dominated_by or "")
    ours, theirs = (name_of(it, table.keys) for it in (row, other))
    if ours == theirs:
        ours, theirs = row.run.job_id, other.run.job_id
    better = []
    for axis in row.dominated_in:
        if axis in row.standing:
            ratio = other.standing[axis].value / row.standing[axis].value
            better.append(f"{FRONT[axis]} ×{ratio:.2f}")
        elif row.run.interval and other.run.interval:
            better.append(f"{axis} {points(other.run.interval[0] - row.run.interval[0])} points")
    return f"{ours} by {theirs} ({', '.join(better)})"


def verdict(side: dict[str, str]) -> str:
    """Return how one side of a flip came out: `wrong: 12`, `no answer: –`."""
    return f"{side['verdict'].replace('_', ' ')}: {side['answer']}"


def flips_names(flips: Flips, table: Table) -> tuple[str, str]:
    """Return what the run and its baseline are called."""
    return sides(table.row(flips.job_id), table.keys)[:2]


def flips_headline(flips: Flips, table: Table) -> str:
    """Return what a list of flips is about, and what the other questions came to."""
    cut = len(flips.questions) < flips.won + flips.lost
    return (
        f"{versus(table.row(flips.job_id), table.keys)}: {flips.lost} lost, {flips.won} won, "
        f"{flips.both_right} right in both, {flips.both_wrong} wrong in both"
        f"{f' (the first {len(flips.questions)} flips)' if cut else ''}"
    )


@dataclass
class Column:
    """One column: its head, its cells, and how it is shown."""

    head: str
    cells: list[str]
    is_number: bool = True
    leaves: int = 0  # a narrow terminal goes without it, the lowest first; 0 stays


def naming(table: Table) -> list[Column]:
    """Return the columns that tell rows from one another."""
    rows = table.rows
    names = [tuple(row.config[key] for key in table.keys) for row in rows]
    by_job = not table.keys or len(set(names)) < len(names)  # two runs have the same config
    found = [Column("job", [row.run.job_id for row in rows], False)] * by_job
    return found + [Column(label(key), [_word(row.config[key]) for row in rows], False) for key in table.keys]


def columns(table: Table) -> list[Column]:
    """Return the columns of a table for people."""
    rows, found = table.rows, naming(table)

    def measured(name: str, head: str, leaves: int = 0) -> Column:
        return Column(head, [number(row.run.metrics.get(name)) for row in rows], leaves=leaves)

    def compared(head: str, text: Callable[[Comparison], str], leaves: int = 0) -> Column:
        return Column(head, [text(row.comparison) if row.comparison else "" for row in rows], leaves=leaves)

    if not table.scored:
        return found + [measured(name, name) for name in headline_metrics(rows)]
    found.append(Column("n", [number(row.run.score[1]) if row.run.score else ABSENT for row in rows]))
    found.append(Column("accuracy", list(map(accuracy_of, rows))))
    if table.baseline:
        found += [
            Column("Δ points", list(map(points_of, rows))),
            compared("p", lambda it: p_value(it.p), 8),
            compared("Holm", lambda it: p_value(it.p_holm)),
            compared("wins/losses\n/ties", _counts),
            compared("could see\npoints", _could_see, 6),
        ]
    for name, leaves in OF_SCORED.items():
        values = [row.run.metrics.get(name) for row in rows]
        if any(values) if name in SHOWN_IF_ANY else any(value is not None for value in values):
            found.append(measured(name, METRICS[name].head, leaves))
    if table.axes:
        found.append(Column("Pareto", [_front(row) for row in rows], False, 7))
    return found


def ratio_columns(table: Table) -> list[Column]:
    """Return the columns of the table of ratios: one line for each run and measure."""
    lines = [(row, it) for row in table.rows for it in row.ratios]
    names = [assignments(row, table.keys) or row.run.job_id for row, _ in lines]
    return [
        Column("compared with the baseline", names, False),
        Column("measure", [it.measure for _, it in lines], False),
        Column("ratio", [f"×{it.ratio:.3g} [{it.ratio_low:.3g}, {it.ratio_high:.3g}]" for _, it in lines]),
        Column("repeats", [f"{it.repeats}/{it.baseline_repeats}" for _, it in lines]),
        Column("p", [p_value(it.p) for _, it in lines]),
        Column("Holm", [p_value(it.p_holm) for _, it in lines]),
        Column("finding", [str(it.finding) for _, it in lines], False),
    ]


def headline_metrics(rows: list[Row]) -> list[str]:
    """Return up to eight metrics that all rows have: headlines first, then the task's own by name."""
    shared = set.intersection(*(set(row.run.metrics) for row in rows))
    known = [name for name in HEADLINES if name in shared]
    return [*known, *sorted(name for name in shared - set(known) if "/" not in name)][:8]


def fit(found: list[Column], width: int) -> tuple[list[Column], list[str]]:
    """Leave out what a narrow terminal has no room for; returns the columns and the heads of those left out."""

    def needed() -> int:
        return sum(2 + max(len(line) for text in (it.head, *it.cells) for line in text.split("\n")) for it in found)

    found, left_out = list(found), []
    while needed() > width and any(it.leaves for it in found):
        least = min((it for it in found if it.leaves), key=lambda it: it.leaves)
        found.remove(least)
        left_out.append(least.head.replace("\n", " "))
    return found, left_out


def _word(value: str | None) -> str:
    return ABSENT if value is None else value if len(value) <= 60 else value[:59] + "…"


def accuracy_of(row: Row) -> str:
    """Return an accuracy in percent with its interval."""
    if row.run.interval is None:
        return ABSENT
    accuracy, low, high = row.run.interval
    return f"{100 * accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def points_of(row: Row) -> str:
    """Return how far a row is from its baseline, in percentage points."""
    if row.comparison is None:
        return "baseline" if row.is_baseline else f"{ABSENT} (see below)"
    it = row.comparison
    return f"{points(it.difference)} [{points(it.difference_low)}, {points(it.difference_high)}]"


def _could_see(it: Comparison) -> str:
    return ABSENT if it.method is Method.sequential else f"≥{at_least(it.detectable_difference)}"


def _counts(it: Comparison) -> str:
    return "unpaired" if it.method is Method.fisher else f"{it.wins}/{it.losses}/{it.ties}"


def _front(row: Row) -> str:
    if row.off_front:
        return "left out"
    return "" if row.on_front is None else "front" if row.on_front else "dominated"
