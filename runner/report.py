"""What a user sees on stdout when a job has ended: a small table, one line of JSON, or nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config.root import Print
from runner.core.prompt_facts import PromptFact
from runner.render.job_lines import LINES, grid_columns
from runner.tracking.stores import EXPERIMENT, Store, relative_path, see_all
from runner_base import COMPLETIONS, Column, Record, Status, Use, few, plain
from runner_base.console import console, rich_table
from runner_base.printed_tables import print_fitted
from runner_base.tables import NO_WIDTH, say_lines
from runner_compare import ACCURACY, cut_off_words, described, divergence_tables, of_plug_ins, unread_note
from runner_compare.metrics import number
from runner_engine.models.loaded_lines import SHOWN, lines

if TYPE_CHECKING:
    from rich.console import Console

MAX_NAMED = 8  # jobs that a note under a grid lists
MAX_KEY_COLUMNS = 6  # more of them leave no room for a value
USES = {"model_mib": Use.memory, "peak_rss_mib": Use.memory, "decode_tok_per_s": Use.speed}
FACTS_SHOWN = (
    *("architecture", "device", "threads", "processes", "dtype"),
    *(
        "attention",
        "rope",
        "prompt",
        "prompts",
        "sampling",
        "calls",
        "effective_length",
        "reference",
        "context",
        "early_stop_vs",
        "early_stop_level",
        "early_stop_verdict",
        "source",
        "server",
        "reported_model",
        "answered_by",
        "output_dir",
        "keeps_up_to",
        "noise",
        "plug_ins",
    ),
)


def show(record: Record, choices: dict[str, str], how: Print, store: Store | None = None) -> None:
    """Print a record on stdout in the form of print=...; `store` is where it was logged."""
    if how is Print.json:
        print(to_json(record), flush=True)
    elif how.is_table:
        _table(record, choices, store, how is Print.full)


def brief(record: Record) -> str:
    """Return a job's main numbers on one line."""
    shown = headline(record.result.metrics)
    keys = (
        list(dict.fromkeys(line.label for line in LINES if line.brief and line.label in shown))
        or list(shown)[:4]
    )
    return " · ".join(f"{key} {shown[key]}" for key in keys)


def show_grid(lines: list[GridLine], how: Print) -> None:
    """Print all jobs of a grid: a table for people, one JSON line per job, or nothing."""
    if how is Print.json:
        for line in lines:
            if line.record is not None:
                print(to_json(line.record), flush=True)
    if not how.is_table:
        return
    out = console(width_elsewhere=NO_WIDTH)
    keys, names = naming_columns([line.names for line in lines])
    metrics = grid_columns([line.record.result.metrics for line in lines if line.record is not None])
    columns = [
        *named_columns(keys, names),
        Column("status", [line.status for line in lines], False, use=Use.result),
        job_column([line.job_id for line in lines], names),
    ]
    scored = any(line.accuracy() for line in lines)
    if scored:
        columns.append(Column("accuracy [95 %]", [line.accuracy() for line in lines], use=Use.result))
    for it in metrics:
        values = [line.metric(it.key) for line in lines]
        cells = ["" if value is None else it.write(value) for value in values]
        columns.append(Column(it.title, cells, use=USES.get(it.key, Use.more) if scored else Use.speed))
    print_fitted(out, columns, "print=json, runner-compare")
    for note in [*_cut_off_notes(lines, names), *_unread_notes(lines, names)]:
        say_lines(out, f"note: {note}", style="yellow")


def _cut_off_notes(lines: Sequence[GridLine], names: Sequence[Sequence[str]]) -> list[str]:
    """Say of which jobs answers were cut off by the limit of tokens, jobs of which the same is said
    together."""
    jobs: dict[str, list[str]] = {}
    for line, named in zip(lines, names, strict=True):
        words = (
            cut_off_words(line.record.result.metrics, line.record.params) if line.record is not None else ""
        )
        jobs.setdefault(words, []).append(" ".join(filter(None, named)) or line.job_id)
    return [f"{few(of, MAX_NAMED)}: {words}" for words, of in jobs.items() if words]


def _unread_notes(lines: Sequence[GridLine], names: Sequence[Sequence[str]]) -> list[str]:
    """Say of which jobs the rule that judges has read few answers."""
    named = zip(lines, names, strict=True)
    records = (
        (" ".join(filter(None, name)) or it.job_id, it.record) for it, name in named if it.record is not None
    )
    note = unread_note((name, record.result.metrics, record.params) for name, record in records)
    return [note] * bool(note)


def naming_columns(names: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and cells by which jobs are told apart: a column for each key, one for all
    if these are many."""
    keys = list(dict.fromkeys(key for row in names for key in row))
    if len(keys) <= MAX_KEY_COLUMNS:
        return keys, [[row.get(key, "") for key in keys] for row in names]
    return ["overrides"], [[" ".join(f"{key}={value}" for key, value in row.items())] for row in names]


def named_columns(keys: Sequence[str], names: Sequence[Sequence[str]]) -> list[Column]:
    """Return the columns by which jobs are told apart, from what naming_columns has returned."""
    return [
        Column(key, [row[place] for row in names], False, use=Use.setting) for place, key in enumerate(keys)
    ]


def job_column(job_ids: list[str], names: Sequence[Sequence[str]]) -> Column:
    """Return the ids of jobs: the first column to leave out where their settings tell them
    apart."""
    told_apart = len({*map(tuple, names)}) == len(names)
    return Column("job", job_ids, False, drop_order=int(told_apart), use=Use.job)


@dataclass
class GridLine:
    """One job in the table of a grid."""

    names: dict[str, str]  # overrides: key -> value
    status: str
    job_id: str = ""
    record: Record | None = None

    def metric(self, name: str) -> float | None:
        """Return a metric, or None if the job does not have it."""
        return None if self.record is None else self.record.result.metrics.get(name)

    def accuracy(self) -> str:
        """Return the accuracy with its interval in percent, empty if nothing was scored or a
        question is unanswered."""
        if self.record is None or self.record.status is not Status.FINISHED:
            return ""
        values = [self.metric(name) for name in ACCURACY]
        if None in values:
            return ""
        value, low, high = (100 * float(part or 0) for part in values)
        return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def to_json(record: Record) -> str:
    """Return a record as one line for scripts, with the completions if the job has any."""
    values: dict[str, Any] = {
        "job_id": record.job_id,
        "status": record.status.value,
        "output_dir": record.output_dir,
        "metrics": record.result.metrics,
        "mlflow_run_id": record.mlflow_run_id,
    }
    with suppress(OSError, ValueError), Path(record.output_dir, COMPLETIONS).open(encoding="utf-8") as lines:
        values[COMPLETIONS.removesuffix(".jsonl")] = [json.loads(line) for line in lines]
    return json.dumps(values)


def _table(record: Record, choices: dict[str, str], store: Store | None, full: bool) -> None:
    out, result = console(), record.result
    title = "  ".join(f"{group}={choice}" for group, choice in choices.items())
    table = rich_table(show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    loaded = lines(result.metrics, result.facts)
    if not full and "rope" in loaded:  # without the number of its pairs
        loaded["rope"] = result.facts["rope"]
    shown = [
        *headline(result.metrics).items(),
        *((key, result.facts[key]) for key in FACTS_SHOWN if key in result.facts),
    ]
    shown = [(key, text) for key, text in shown if not loaded or key not in SHOWN] + [*loaded.items()]
    if record.status is not Status.FINISHED:  # its metrics cover only a part of the work
        shown.insert(0, ("status", f"{record.status}: {record.error or 'see log.txt'}"))
    if not full:
        shown = [(key, words) for key, text in shown if (words := _for_everyone(key, text, choices))]
    shown.append(("job", f"{record.job_id}{'  (recorded earlier)' if record.from_ledger else ''}"))
    for key, text in [*shown, ("kept in", str(relative_path(Path(record.output_dir))))]:
        table.add_row(key, text)
    if result.text is not None:
        text = plain(result.text) if sys.stdout.isatty() else result.text
        print(text, end="\n\n", flush=True)  # not folded at the width of the terminal
    out.print(title, style="bold")
    out.print(table)
    tables = console(width_elsewhere=NO_WIDTH)
    if result.rows:
        _print_rows(result.rows, tables)
    for title, rows in {**divergence_tables(result.metrics), **result.tables}.items():
        if rows:
            out.print(f"\n{title}", style="bold")
            _print_rows(rows, tables)
    for note in result.notes:
        say_lines(out, f"note: {note}", style="yellow")
    if record.mlflow_uri is not None:
        experiment = f" in experiment {store.experiment}" if store and store.experiment != EXPERIMENT else ""
        hint = see_all(record.mlflow_uri)
        # not folded, so that it can be pasted
        print(plain(f"MLflow run {record.mlflow_run_id}{experiment}. See all: {hint}"), flush=True)


def headline(metrics: dict[str, float]) -> dict[str, str]:
    """Return the lines whose metrics the job has; if these are only lines that every job has, each
    metric by itself."""
    shown = [line for line in LINES if line.fits(metrics)]
    if all(line.common for line in shown):
        return {key: number(value) for key, value in metrics.items() if "/" not in key}
    of_others = {(it := described(key)).title: it.write(metrics[key]) for key in of_plug_ins([metrics])}
    return {line.label: line.write(metrics) for line in shown} | of_others


def _for_everyone(key: str, text: str, choices: Mapping[str, str]) -> str:
    """Return a fact without what only experts need, and empty if the title says the same:
    print=full has it all."""
    if text == choices.get({"quantized": "quantization", "sampling": "generation"}.get(key, key)):
        return ""
    if key == "rope":
        kind, *settings = text.split(", ")
        is_usual = kind == "default" and len(settings) == 1  # its theta alone, as of most models
        return "" if is_usual and choices.get("rope") == "native" else text
    if key == "prompt":
        fact = PromptFact.from_fact(text)
        return replace(fact, form=None, beginning=fact.beginning if fact.has_two_bos else None).to_fact()
    return text


def _print_rows(rows: list[dict[str, Any]], out: Console) -> None:
    columns = []
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        cells = ["" if v is None else number(v) if isinstance(v, int | float) else str(v) for v in values]
        numeric = all(isinstance(value, int | float | None) for value in values)
        columns.append(Column(key, cells, numeric, use=Use.result))
    print_fitted(out, columns, "print=json")
