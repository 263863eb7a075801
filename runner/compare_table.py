"""How a comparison is shown: rows and tables as plain data, printed as table, markdown, json or csv."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import Field, asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, TextIO

from runner.config import GROUPS, HASHED, RunnerConfig
from runner.stats import wilson_interval

ABSENT = "–"
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


class Format(StrEnum):
    """What goes to stdout."""

    table = "table"
    markdown = "markdown"
    json = "json"
    csv = "csv"


class Finding(StrEnum):
    """What a comparison may say; equality is not among it."""

    better = "better"
    worse = "worse"
    open = "no difference shown"


@dataclass
class Comparison:
    """One run against its baseline on the same questions; differences are fractions, this less baseline."""

    baseline_job_id: str
    wins: int  # questions that the baseline missed and this run solved
    losses: int  # the reverse
    difference: float
    difference_low: float
    difference_high: float
    p: float
    p_holm: float = 1.0
    finding: Finding = Finding.open
    detectable_difference: float | None = None


@dataclass
class Row:
    """One run: where it is, the config keys in which the runs differ, its numbers, how it compares."""

    job_id: str
    run_id: str
    folder: str
    config: dict[str, str | None]
    metrics: dict[str, float]
    is_baseline: bool = False
    comparison: Comparison | None = None
    note: str | None = None  # why there is no comparison

    @property
    def scored(self) -> bool:
        """Whether the run counted right answers."""
        return {"n", "correct"} <= self.metrics.keys()


@dataclass
class Table:
    """All runs of one task; keys are the config keys in which they differ."""

    task: str
    keys: list[str]
    rows: list[Row]
    baseline: dict[str, str] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    @property
    def scored(self) -> bool:
        """Whether this is a table of accuracies."""
        return any(row.scored for row in self.rows)


def label(key: str) -> str:
    """Return a config key as it is shown: quantization.name is quantization."""
    return key.removesuffix(".name")


# ----------------------------------------------------------------------------------------- columns


def inert_keys() -> set[str]:
    """Return the config keys in which runs may differ and still be the same experiment.

    A place whose content is hashed (model.name, task.data) is inert for a job's identity, but it is what a
    reader knows a model or a data set by; only the download cache says nothing.
    """

    def inert(item: Field[Any]) -> bool:
        return item.metadata.get("inert", HASHED) != HASHED or item.name == "cache_dir"

    keys = {item.name for item in fields(RunnerConfig) if inert(item)}
    for group, schemas in GROUPS.items():
        for schema in schemas.values():
            keys |= {f"{group}.{item.name}" for item in fields(schema) if inert(item)}
    return keys


def differing_keys(configs: list[dict[str, str]]) -> list[str]:
    """Return the config keys in which the runs differ and that mean something, in the config's order."""
    inert = inert_keys()
    order = [item.name for item in fields(RunnerConfig)]

    def place(key: str) -> tuple[int, bool, str]:
        group = _group(key)
        return (order.index(group) if group in order else len(order)), not key.endswith(".name"), key

    keys = {key for config in configs for key in config if not {key, _group(key)} & inert}
    return sorted((key for key in keys if len({config.get(key) for config in configs}) > 1), key=place)


def telling_keys(keys: list[str], configs: list[dict[str, str]]) -> list[str]:
    """Return the keys without those that say no more than their group's name does.

    nf4 always has double_quant and `none` never has: a column for it tells something only once nf4 has both.
    """

    def tells(key: str) -> bool:
        values = {config.get(key) for config in configs}
        return not (None in values and len(values) == 2 and f"{_group(key)}.name" in keys)

    return [key for key in keys if tells(key)]


def _group(key: str) -> str:
    return key.partition(".")[0]


# ---------------------------------------------------------------------------------- order and words


def arrange(table: Table) -> None:
    """Put each baseline right above what is compared with it, and say what each comparison shows."""
    inner = {_group(key) for key in table.baseline if key.endswith(".name")}
    outer = [key for key in table.keys if key not in table.baseline and _group(key) not in inner]

    def place(row: Row) -> tuple[object, ...]:
        same = [_natural(row.config[key]) for key in outer]
        return same, not row.is_baseline, [_natural(row.config[key]) for key in table.keys], row.job_id

    table.rows.sort(key=place)
    by_id = {row.job_id: row for row in table.rows}
    if table.baseline:
        table.sentences = [sentence(row, by_id, table.keys) for row in table.rows if not row.is_baseline]


def _natural(value: str | None) -> tuple[int, float, str]:
    """Sort key: absent, then numbers by size, then words."""
    try:
        return (0, 0.0, "") if value is None else (1, float(value), "")
    except ValueError:
        return 2, 0.0, str(value)


def sentence(row: Row, by_id: dict[str, Row], keys: list[str]) -> str:
    """Return one row's finding in words that claim no more than the test shows."""
    it = row.comparison
    if it is None:
        return f"{_assignments(row, keys) or row.job_id}: not compared, {row.note}"
    base = by_id[it.baseline_job_id]
    own = [key for key in keys if row.config[key] != base.config[key]]
    same = _assignments(row, [key for key in keys if key not in own])
    ours, theirs = _assignments(row, own) or row.job_id, _assignments(base, own) or base.job_id
    both = [key for key in own if row.config[key] is not None and base.config[key] is not None]
    if len(both) == 1 and both[0].endswith(".name"):  # `nf4 vs none`, the keys that only one has in brackets
        more = [key for key in own if key not in both]
        ours, theirs = (
            f"{side.config[both[0]]} ({_assignments(side, more)})".removesuffix(" ()") for side in (row, base)
        )
    n = int(row.metrics["n"])
    low, high = points(it.difference_low), points(it.difference_high)
    ps = f"p={p_value(it.p)}, Holm {p_value(it.p_holm)}".replace("=<", "<")
    text = (
        f"{ours} vs {theirs}{f' on {same}' if same else ''} (n={n:,}): {it.finding} "
        f"(Δ {points(it.difference)} points, 95 % interval {low}..{high}, {ps})"
    )
    if it.finding is not Finding.open:
        return text
    if it.detectable_difference is None:
        return f"{text}; {n:,} questions are too few to show any difference"
    seen = math.ceil(1000 * it.detectable_difference) / 10  # rounded up, so that the promise holds
    return f"{text}; a true difference of ≥ {seen:.1f} points would have been seen at least 4 times in 5"


def _assignments(row: Row, keys: list[str]) -> str:
    return ", ".join(f"{label(key)}={row.config[key]}" for key in keys if row.config[key] is not None)


def render(tables: list[Table], style: Format, out: TextIO) -> None:
    """Print the tables in the style asked for."""
    show: dict[Format, Callable[[list[Table], TextIO], None]] = {
        Format.table: _rich,
        Format.markdown: _markdown,
        Format.json: _json,
        Format.csv: _csv,
    }
    show[style](tables, out)


# --------------------------------------------------------------------------------------- for people


def points(difference: float) -> str:
    """Return a fraction as signed percentage points: −0.4, 0.0, +1.3."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_value(p: float) -> str:
    """Return p to two digits, e.g. 0.77, 0.0042, <0.0001."""
    return "<0.0001" if p < 0.0001 else "1.0" if p > 0.995 else f"{p:.2g}"


def number(value: float | None) -> str:
    """Return a measurement to three digits or to the unit: 0.0123, 4.57, 1,234."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def summary(table: Table) -> str:
    """Return the legend under a table with comparisons."""
    compared = sum(row.comparison is not None for row in table.rows)
    return (
        "Δ in percentage points, wins/losses and p (McNemar, exact) are paired on the same questions; "
        f"Holm: p adjusted for the {compared} comparison{'s' * (compared != 1)} of this table. "
        "Intervals hold 95 % each."
    )


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return head and body of a table for people."""
    rows, body = table.rows, []
    names = [tuple(row.config[key] for key in table.keys) for row in rows]
    by_job = not table.keys or len(set(names)) < len(names)  # the config alone does not tell these runs apart
    head = ["job"] * by_job + [label(key) for key in table.keys]
    paired = bool(table.baseline) and table.scored
    if table.scored:
        head += ["n", "accuracy"]
        head += ["Δ points", "p", "Holm", "wins/losses"] * paired
        head += ["no\nanswer", "cut\noff", "weights\nMiB", "peak RSS\nMiB", "decode\ntok/s"]
        metrics = ["no_answer", "cut_off", "weight_mib", "peak_rss_mib", "decode_tok_per_s"]
    else:
        metrics = headline_metrics(rows)
        head += metrics
    for row in rows:
        cells = [row.job_id] * by_job + [_word(row.config[key]) for key in table.keys]
        if table.scored:
            cells += [number(row.metrics.get("n")), _accuracy(row)]
            cells += _paired(row) * paired
        body.append(cells + [number(row.metrics.get(name)) for name in metrics])
    return head, body


def headline_metrics(rows: list[Row]) -> list[str]:
    """Return up to eight metrics that all rows have: telling ones, general ones, then the task's own by name."""
    shared = set.intersection(*(set(row.metrics) for row in rows))
    known = [name for name in (*TELLING, *GENERAL) if name in shared]
    return [*known, *sorted(name for name in shared - set(known) if "/" not in name)][:8]


def _word(value: str | None) -> str:
    return ABSENT if value is None else value if len(value) <= 60 else value[:59] + "…"


def _accuracy(row: Row) -> str:
    if not row.scored or not row.metrics["n"]:
        return ABSENT
    correct, n = int(row.metrics["correct"]), int(row.metrics["n"])
    low, high = wilson_interval(correct, n)
    return f"{100 * correct / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _paired(row: Row) -> list[str]:
    if row.comparison is None:
        return ["baseline" if row.is_baseline else f"{ABSENT} (see below)", "", "", ""]
    it = row.comparison
    interval = f"{points(it.difference)} [{points(it.difference_low)}, {points(it.difference_high)}]"
    return [interval, p_value(it.p), p_value(it.p_holm), f"{it.wins}/{it.losses}"]


def _rich(tables: list[Table], out: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    # A pipe or a file has no width: give each table all that it needs rather than cut a number short.
    console = Console(file=out, width=None if out.isatty() else 10_000, highlight=False, soft_wrap=True)
    for table in tables:
        head, body = _cells(table)
        grid = RichTable(box=box.SIMPLE, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
        for name in head:
            is_number = name not in ("job", *map(label, table.keys))
            grid.add_column(escape(name), justify="right" if is_number else "left", overflow="fold")
        for cells in body:
            grid.add_row(*map(escape, cells))
        console.print(f"[bold]{escape(table.task)}[/bold]: {len(body)} run{'s' * (len(body) != 1)}")
        console.print(grid, soft_wrap=False)
        for sentence in table.sentences:
            console.print(f"• {escape(sentence)}")
        console.print("" if not table.sentences else f"{summary(table)}\n", style="dim")


def _markdown(tables: list[Table], out: TextIO) -> None:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |\n"

    for table in tables:
        head, body = _cells(table)
        out.write(f"### {table.task}\n\n" + line(head) + line(["---"] * len(head)))
        out.writelines(map(line, body))
        out.write("\n")
        if table.sentences:
            out.writelines(f"- {sentence}\n" for sentence in table.sentences)
            out.write(f"\n{summary(table)}\n\n")


# ------------------------------------------------------------------------------------- for programs


def _record(table: Table, row: Row) -> dict[str, Any]:
    """Return a row as plain data: what it is, its config, its metrics, how it compares."""
    record: dict[str, Any] = {
        "task": table.task,
        "job_id": row.job_id,
        "run_id": row.run_id,
        "output_dir": row.folder,
    }
    record["config"] = row.config
    record["metrics"] = dict(sorted(row.metrics.items()))
    if row.scored and row.metrics["n"]:  # from the counts, so that every table has the same interval
        low, high = wilson_interval(int(row.metrics["correct"]), int(row.metrics["n"]))
        record["metrics"] |= {"accuracy_low": low, "accuracy_high": high}
    record["metrics"] = {name: value if math.isfinite(value) else None for name, value in record["metrics"].items()}
    record["is_baseline"] = row.is_baseline
    record["comparison"] = asdict(row.comparison) if row.comparison else None
    record["note"] = row.note
    return record


def _json(tables: list[Table], out: TextIO) -> None:
    content = [
        {
            "task": table.task,
            "baseline": table.baseline,
            "differing_keys": table.keys,
            "rows": [_record(table, row) for row in table.rows],
            "sentences": table.sentences,
        }
        for table in tables
    ]
    json.dump({"tables": content}, out, indent=2, ensure_ascii=False)
    out.write("\n")


def _csv(tables: list[Table], out: TextIO) -> None:
    """One sheet for all tables: the columns of every task, empty where a run has no such number."""
    lines: list[dict[str, Any]] = []
    for table in tables:
        for row in table.rows:
            record = _record(table, row)
            config, metrics, comparison = (record.pop(part) or {} for part in ("config", "metrics", "comparison"))
            lines.append({**record, **config, **metrics, **comparison})
    first = ["task", "job_id", *(key for table in tables for key in table.keys)]
    last = [*Comparison.__dataclass_fields__, "is_baseline", "note", "run_id", "output_dir"]
    middle = sorted({name for line in lines for name in line} - set(first) - set(last))
    if not any(table.baseline for table in tables):
        last = ["run_id", "output_dir"]
    writer = csv.DictWriter(
        out, list(dict.fromkeys([*first, *middle, *last])), extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
