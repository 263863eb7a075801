"""A table's columns as text, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.compare.data import Method, Row, Table, label
from runner.compare.say import ABSENT, assignments, at_least, number, p_value, points, ratio_text
from runner.core.stats import wilson_interval

TELLING = (  # what a task is run for stands first, where it measures that
    "best_decode_tok_per_s",
    "best_batch_size",
    "load_peak_rss_mib",
    "steady_rss_mib",
    "peak_over_baseline_mib",
    "predicted_total_mib",
    "largest_part_mib",
    "stored_mib",
)
GENERAL = ("weight_mib", "peak_rss_mib", "load_s", "prefill_tok_per_s", "decode_tok_per_s", "seconds")
MEASURED = (  # of scored runs: metric, head, and how soon a narrow terminal goes without it (0: never)
    ("no_answer", "no\nanswer", 5),
    ("cut_off", "cut\noff", 5),
    ("weight_mib", "weights\nMiB", 4),
    ("stored_mib", "on disk\nMiB", 4),
    ("cuda_peak_mib", "peak GPU\nMiB", 0),
    ("peak_rss_mib", "peak RSS\nMiB", 0),
    ("decode_tok_per_s", "decode\ntok/s", 0),
    ("load_s", "load\ns", 3),
    ("new_tokens", "new\ntokens", 2),
)
SHOWN_IF_ANY = ("no_answer", "cut_off")  # zeros in every row say nothing


@dataclass
class Column:
    """One column: its head, its cells, and how it is shown."""

    head: str
    cells: list[str]
    is_number: bool = True
    leaves: int = 0  # a narrow terminal goes without it, the lowest first; 0 stays


def columns(table: Table) -> list[Column]:
    """Return the columns of a table for people."""
    rows = table.rows
    names = [tuple(row.config[key] for key in table.keys) for row in rows]
    by_job = not table.keys or len(set(names)) < len(names)  # the config alone does not tell these runs apart
    found = [Column("job", [row.job_id for row in rows], False)] * by_job
    found += [Column(label(key), [_word(row.config[key]) for row in rows], False) for key in table.keys]
    if not table.scored:
        return found + [_measured(rows, name, name) for name in headline_metrics(rows)]
    found += [_measured(rows, "n", "n"), Column("accuracy", list(map(_accuracy, rows)))]
    if table.baseline:
        paired: list[tuple[str, Callable[[Row], str], int]] = [
            ("Δ points", _difference, 0),
            ("p", lambda row: p_value(row.comparison.p) if row.comparison else "", 8),
            ("Holm", lambda row: p_value(row.comparison.p_holm) if row.comparison else "", 0),
            ("wins/losses\n/ties", _counts, 0),
            (
                "could see\npoints",
                lambda row: f"≥{at_least(row.comparison.detectable_difference)}" if row.comparison else "",
                6,
            ),
        ]
        found += [Column(head, [text(row) for row in rows], leaves=leaves) for head, text, leaves in paired]
    for name, head, leaves in MEASURED:
        values = [row.metrics.get(name) for row in rows]
        if any(values) if name in SHOWN_IF_ANY else any(value is not None for value in values):
            found.append(_measured(rows, name, head, leaves))
    if table.axes:
        found.append(Column("Pareto", [_front(row) for row in rows], False, 7))
    return found


def ratio_columns(table: Table) -> list[Column]:
    """Return the columns of the table of ratios: one line for each run and measure."""
    lines = [(row, it) for row in table.rows for it in row.ratios]
    names = [assignments(row, table.keys) or row.job_id for row, _ in lines]
    return [
        Column("compared with the baseline", names, False),
        Column("measure", [it.measure for _, it in lines], False),
        Column("ratio", [ratio_text(it) for _, it in lines]),
        Column("repeats", [f"{it.repeats}/{it.baseline_repeats}" for _, it in lines]),
        Column("p", [p_value(it.p) for _, it in lines]),
        Column("Holm", [p_value(it.p_holm) for _, it in lines]),
        Column("finding", [str(it.finding) for _, it in lines], False),
    ]


def headline_metrics(rows: list[Row]) -> list[str]:
    """Return up to eight metrics that all rows have: telling ones, general ones, then the task's own by name."""
    shared = set.intersection(*(set(row.metrics) for row in rows))
    known = [name for name in (*TELLING, *GENERAL) if name in shared]
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


def _measured(rows: list[Row], name: str, head: str, leaves: int = 0) -> Column:
    return Column(head, [number(row.metrics.get(name)) for row in rows], leaves=leaves)


def _word(value: str | None) -> str:
    return ABSENT if value is None else value if len(value) <= 60 else value[:59] + "…"


def _accuracy(row: Row) -> str:
    if not row.scored or not row.metrics["n"]:
        return ABSENT
    correct, n = int(row.metrics["correct"]), int(row.metrics["n"])
    low, high = wilson_interval(correct, n)
    return f"{100 * correct / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _difference(row: Row) -> str:
    if row.comparison is None:
        return "baseline" if row.is_baseline else f"{ABSENT} (see below)"
    it = row.comparison
    return f"{points(it.difference)} [{points(it.difference_low)}, {points(it.difference_high)}]"


def _counts(row: Row) -> str:
    it = row.comparison
    if it is None:
        return ""
    return "unpaired" if it.method is Method.fisher else f"{it.wins}/{it.losses}/{it.ties}"


def _front(row: Row) -> str:
    return "" if row.on_front is None else "front" if row.on_front else "dominated"
