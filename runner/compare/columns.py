"""A table's columns, the legend below them, and what of them fits a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from runner.compare.data import ABSENT, Run, Table, TableRow, label
from runner.compare.effect_words import METHODS, detectable, difference_of, legend, p_value, pairs_of, value_of, written
from runner.compare.wording import assignments, front_rule, number
from runner.core.effects import Effect
from runner.core.metrics import ENDS, HEADLINES, LOG_LIKELIHOODS, METRICS, OF_SCORED, SHOWN_IF_ANY

# Of tables of likelihoods: after the comparison, and how soon a narrow terminal goes without each; 0 stays.
OF_LIKELIHOODS = {"kl_nats_per_token": 0, "top_1_agreement": 0, "acc": 0, "acc_norm": 5, "perplexity": 3,
                  "bits_per_byte": 4, "weight_mib": 2, "model_mib": 0, "peak_rss_mib": 4, "prefill_tok_per_s": 0,
                  "load_s": 1}  # fmt: skip
WITH_INTERVAL = ("kl_nats_per_token",)


@dataclass
class Column:
    """One column: its head, its cells, and how it is shown."""

    head: str
    cells: list[str]
    is_number: bool = True
    leaves: int = 0  # a narrow terminal goes without it, the lowest first; 0 stays


def columns(table: Table) -> list[Column]:
    """Return the columns of a table for people."""
    if table.unit is not None:
        return [*naming(table), *_of_likelihoods(table, table.unit)]
    if table.scored:
        return [*naming(table), *_of_accuracies(table)]
    rows = table.rows
    return [*naming(table), *(_number_of(rows, name, name) for name in headline_metrics(rows))]


def naming(table: Table) -> list[Column]:
    """Return the columns that tell rows from one another."""
    rows = table.rows
    names = [tuple(row.config[key] for key in table.keys) for row in rows]
    by_job = not table.keys or len(set(names)) < len(names)  # two runs have the same config
    found = [Column("job", [row.run.job_id for row in rows], False)] * by_job
    return found + [Column(label(key), [_word(row.config[key]) for row in rows], False) for key in table.keys]


def _word(value: str | None) -> str:
    return ABSENT if value is None else value if len(value) <= 60 else value[:59] + "…"


def _of_accuracies(table: Table) -> list[Column]:
    rows = table.rows
    found = [
        Column("n", [number(row.run.score[1]) if row.run.score else ABSENT for row in rows]),
        Column("accuracy", list(map(accuracy_of, rows))),
    ]
    if table.baseline:
        *test, smallest = effect_columns(rows, "points")
        found += [*test, Column("wins/losses\n/ties", _cells(rows, pairs_of)), smallest]
    for name, leaves in OF_SCORED.items():
        values = [row.run.metrics.get(name) for row in rows]
        if any(values) if name in SHOWN_IF_ANY else any(value is not None for value in values):
            found.append(_number_of(rows, name, METRICS[name].head, leaves))
    if table.axes:
        found.append(Column("Pareto", [_front(row) for row in rows], False, 7))
    return found


def _of_likelihoods(table: Table, unit: str) -> list[Column]:
    rows, key = table.rows, LOG_LIKELIHOODS[unit]
    found = [
        _number_of(rows, "n", "n"),
        Column(f"log-likelihood\nnats/{unit}", [_with_interval(row.run, key, ".4f") for row in rows]),
    ]
    if table.baseline:
        found += effect_columns(rows, f"nats/{unit}")
    for name, leaves in OF_LIKELIHOODS.items():
        if any(name in row.run.metrics for row in rows):
            found.append(measured(name, [row.run for row in rows], leaves))
    return found


def effect_columns(rows: list[TableRow], unit: str) -> list[Column]:
    """Return the columns of how far each row is from its baseline."""
    return [
        Column(f"Δ {unit}", list(map(difference_of, rows))),
        Column("p", _cells(rows, lambda it: p_value(it.p)), leaves=8),
        Column("Holm", _cells(rows, lambda it: p_value(it.p_holm))),
        Column(f"min. detectable\n{unit}", _cells(rows, detectable), leaves=6),
    ]


def _cells(rows: list[TableRow], text: Callable[[Effect], str]) -> list[str]:
    return [text(row.effect) if row.effect else "" for row in rows]


def ratio_columns(table: Table) -> list[Column]:
    """Return the columns of the table of ratios: one line for each run and measure."""
    lines = [(row, it) for row in table.rows for it in row.ratios]
    names = [assignments(row, table.keys) or row.run.job_id for row, _ in lines]
    return [
        Column("compared with the baseline", names, False),
        Column("measure", [it.measure for _, it in lines], False),
        Column("ratio", [f"×{value_of(it)}" for _, it in lines]),
        Column("repeats", [written(METHODS[it.method].sample, it) for _, it in lines]),
        Column("p", [p_value(it.p) for _, it in lines]),
        Column("Holm", [p_value(it.p_holm) for _, it in lines]),
        Column("finding", [str(it.finding) for _, it in lines], False),
    ]


def accuracy_of(row: TableRow) -> str:
    """Return an accuracy in percent with its interval."""
    if row.run.interval is None:
        return ABSENT
    accuracy, low, high = row.run.interval
    return f"{100 * accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _front(row: TableRow) -> str:
    if row.off_front:
        return "left out"
    return "" if row.on_front is None else "front" if row.on_front else "dominated"


def headline_metrics(rows: list[TableRow]) -> list[str]:
    """Return up to eight metrics that all rows have: headlines first, then the task's own by name."""
    shared = set.intersection(*(set(row.run.metrics) for row in rows))
    known = [name for name in HEADLINES if name in shared]
    return [*known, *sorted(name for name in shared - set(known) if "/" not in name)][:8]


def _number_of(rows: list[TableRow], name: str, head: str, leaves: int = 0) -> Column:
    return Column(head, [number(row.run.metrics.get(name)) for row in rows], leaves=leaves)


def measured(name: str, runs: Sequence[Run], leaves: int = 0) -> Column:
    """Return the column of a metric, with intervals where they tell noise from a finding."""
    write = partial(_with_interval, form=".2g") if name in WITH_INTERVAL else _plain
    return Column(METRICS[name].head, [write(run, name) for run in runs], leaves=leaves)


def _plain(run: Run, name: str) -> str:
    return METRICS[name].write(run.metrics[name]) if name in run.metrics else ABSENT


def _with_interval(run: Run, name: str, form: str) -> str:
    if name not in run.metrics:
        return ABSENT
    ends = [run.metrics[f"{name}{end}"] for end in ENDS[1:] if f"{name}{end}" in run.metrics]
    interval = f" [{', '.join(format(end, form) for end in ends)}]" if ends else ""
    return f"{run.metrics[name]:{form}}{interval}".replace("-", "−")


def summary(table: Table) -> str:
    """Return the legend under a table with comparisons."""
    parts = [legend([it for row in table.rows for it in row.effects])]
    if table.unit == "token" and any(row.effect for row in table.rows):
        parts.append(
            "KL is that of the reference to the row, from the tokens that the reference has kept, or from all with "
            "task.exact=true."
        )
    if table.axes:
        parts.append(front_rule(table))
    return " ".join(filter(None, parts))


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
