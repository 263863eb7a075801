"""Prints a finished job's result on stdout: a small table, one JSON line, or nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config.root import PrintMode
from runner.core.prompt_facts import PromptFact
from runner.render.grid_lines import (
    HOW_TO_SEE_MORE,
    MLFLOW,
    MORE,
    NEXT,
    WHAT_COMPARE_SHOWS,
    JobCells,
    build_job_cells,
    format_hint_line,
)
from runner.render.job_lines import LINES, format_row_heading, select_grid_table_metrics
from runner.tracking.stores import (
    EXPERIMENT,
    Store,
    build_compare_command,
    format_mlflow_url_or_command,
    make_relative_to_cwd,
)
from runner_base import (
    COMPLETIONS,
    Column,
    ColumnUse,
    Record,
    Status,
    escape_control_characters,
    join_first_names,
)
from runner_base.console import create_console, create_rich_table
from runner_base.printed_tables import print_table_fitted_to_terminal
from runner_base.tables import NO_WIDTH, print_wrapped
from runner_compare import (
    ACCURACY,
    build_divergence_tables,
    find_metric,
    format_cut_off_message,
    format_unextracted_answers_message,
    plug_in_metric_keys,
)
from runner_compare.metrics import format_number
from runner_engine.models.load_summary import SHOWN, summarize_load

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100  # of a table in a pipe or a file
MAX_NAMED = 8  # jobs that a note under a grid lists
MAX_KEY_COLUMNS = 6  # more of them leave no room for a value
USES = {
    "model_mib": ColumnUse.memory,
    "peak_rss_mib": ColumnUse.memory,
    "decode_tok_per_s": ColumnUse.speed,
    "seconds": ColumnUse.speed,
}
GRID_DETAILS = ("weight_mib", "peak_rss_mib")  # only print=full shows these columns
MAX_OTHERS = 3  # metrics on the line of a job without a score
DETAILS = (
    "architecture",
    "threads",
    "dtype",
    "attention",
    "sampling",
    "prompts",
    "loaded",
    "load",
    "runs on",
)
OF_LOAD = SHOWN | {"load time", "weights"}  # facts and lines that the lines of the load show
LABELS = {
    "reference": "compared with",
    "keeps_up_to": "highest rate",
    "early_stop_vs": "early stop vs",
    "early_stop_level": "significance level",
}
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


def print_record(
    record: Record, choices: dict[str, str], print_mode: PrintMode, store: Store | None = None
) -> None:
    """Print a job's record on stdout in the format that `print` selects. With `store`, also print how
    to compare its runs.
    """
    if print_mode is PrintMode.json:
        print(format_record_as_json(record), flush=True)
    elif print_mode.is_table:
        _print_record_table(record, choices, store, print_mode is PrintMode.full)


def format_main_metrics(record: Record) -> str:
    return " · ".join(format_job_table_cells(record).filled())


def format_job_table_cells(record: Record) -> JobCells:
    metrics = record.result.metrics
    found = build_job_cells(metrics)
    if found.score:
        return found
    others = format_headline_metrics(metrics, full=False)
    characteristic = [label for label in others if label not in ("speed", "time", "model memory")][
        :MAX_OTHERS
    ]
    return build_job_cells(metrics, [f"{label} {others[label]}" for label in characteristic])


def is_stderr_same_file_as_stdout() -> bool:
    try:
        out, err = (os.fstat(stream.fileno()) for stream in (sys.stdout, sys.stderr))
    except (OSError, ValueError, AttributeError):
        return False
    return (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino)


def print_grid_results(lines: list[GridLine], print_mode: PrintMode, has_table: bool = True) -> None:
    if print_mode is PrintMode.json:
        for line in lines:
            if line.record is not None:
                print(format_record_as_json(line.record), flush=True)
    if not print_mode.is_table:
        return
    out, full = create_console(non_terminal_width=WIDTH), print_mode is PrintMode.full
    keys, names = build_job_name_columns([line.names for line in lines])
    if has_table:
        _print_grid_table(
            create_console(non_terminal_width=NO_WIDTH) if full else out, lines, keys, names, full
        )
    for note in [*_format_cut_off_answer_notes(lines, names), *_format_answer_extraction_notes(lines, names)]:
        print_wrapped(out, f"note: {note}", style="yellow")


def _print_grid_table(
    console: Console,
    lines: list[GridLine],
    keys: Sequence[str],
    names: Sequence[Sequence[str]],
    should_show_all: bool,
) -> None:
    metrics = select_grid_table_metrics(
        [line.record.result.metrics for line in lines if line.record is not None]
    )
    if not should_show_all:
        metrics = [it for it in metrics if it.key not in GRID_DETAILS]
    columns = [
        *to_job_name_table_columns(keys, names),
        Column("status", [line.status for line in lines], False, use=ColumnUse.result),
        build_job_id_column([line.job_id for line in lines], names),
    ]
    scored = any(line.format_accuracy() for line in lines)
    if scored:
        columns.append(
            Column("accuracy [95 %]", [line.format_accuracy() for line in lines], use=ColumnUse.result)
        )
    for it in metrics:
        values = [line.get_metric(it.key) for line in lines]
        cells = ["" if value is None else it.format_value(value) for value in values]
        columns.append(
            Column(it.title, cells, use=USES.get(it.key, ColumnUse.more) if scored else ColumnUse.speed)
        )
    print_table_fitted_to_terminal(console, columns, "print=full, print=json, runner-compare")


def _format_cut_off_answer_notes(lines: Sequence[GridLine], job_labels: Sequence[Sequence[str]]) -> list[str]:
    jobs: dict[str, list[str]] = {}
    for line, named in zip(lines, job_labels, strict=True):
        words = (
            format_cut_off_message(line.record.result.metrics, line.record.params)
            if line.record is not None
            else ""
        )
        jobs.setdefault(words, []).append(" ".join(filter(None, named)) or line.job_id)
    return [f"{join_first_names(of, MAX_NAMED)}: {words}" for words, of in jobs.items() if words]


def _format_answer_extraction_notes(
    lines: Sequence[GridLine], job_labels: Sequence[Sequence[str]]
) -> list[str]:
    named = zip(lines, job_labels, strict=True)
    records = (
        (" ".join(filter(None, name)) or it.job_id, it.record) for it, name in named if it.record is not None
    )
    note = format_unextracted_answers_message(
        (name, record.result.metrics, record.params) for name, record in records
    )
    return [note] * bool(note)


def build_job_name_columns(job_names: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Return the table headers and cells that distinguish the jobs from each other.

    More than six keys are joined in one column.
    """
    keys = list(dict.fromkeys(key for row in job_names for key in row))
    if len(keys) <= MAX_KEY_COLUMNS:
        return keys, [[row.get(key, "") for key in keys] for row in job_names]
    return ["overrides"], [[" ".join(f"{key}={value}" for key, value in row.items())] for row in job_names]


def to_job_name_table_columns(keys: Sequence[str], cells: Sequence[Sequence[str]]) -> list[Column]:
    return [
        Column(key, [row[place] for row in cells], False, use=ColumnUse.setting)
        for place, key in enumerate(keys)
    ]


def build_job_id_column(job_ids: list[str], cells: Sequence[Sequence[str]]) -> Column:
    """Return the job id column. Narrow tables omit it if other columns distinguish the jobs."""
    told_apart = len({*map(tuple, cells)}) == len(cells)
    return Column("job", job_ids, False, drop_order=int(told_apart), use=ColumnUse.job)


@dataclass
class GridLine:
    """One job's row in the table of a grid."""

    names: dict[str, str]  # overrides: key -> value
    status: str
    job_id: str = ""
    record: Record | None = None

    def get_metric(self, name: str) -> float | None:
        return None if self.record is None else self.record.result.metrics.get(name)

    def format_accuracy(self) -> str:
        """Return the accuracy in percent with its confidence interval. Empty unless a finished job has a score."""
        if self.record is None or self.record.status is not Status.FINISHED:
            return ""
        values = [self.get_metric(name) for name in ACCURACY]
        if None in values:
            return ""
        value, low, high = (100 * float(part or 0) for part in values)
        return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def format_record_as_json(record: Record) -> str:
    """Return a record as one JSON line, including the completions if the job has any."""
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


def _print_record_table(record: Record, choices: dict[str, str], store: Store | None, full: bool) -> None:
    out, result = create_console(), record.result
    title = "  ".join(f"{group}={choice}" for group, choice in choices.items())
    table = create_rich_table(show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    loaded = summarize_load(result.metrics, result.facts)
    if not full and "rope" in loaded:  # without the number of its pairs
        loaded["rope"] = result.facts["rope"]
    shown = [
        *format_headline_metrics(result.metrics, full).items(),
        *((key, result.facts[key]) for key in FACTS_SHOWN if key in result.facts),
    ]
    shown = [(key, text) for key, text in shown if not loaded or key not in OF_LOAD] + [*loaded.items()]
    if record.status is not Status.FINISHED:  # its metrics cover only a part of the work
        shown.insert(0, ("status", f"{record.status}: {record.error or 'see log.txt'}"))
    if not full:
        shown = [
            (key, words)
            for key, text in shown
            if (words := _format_fact_unless_redundant(key, text, choices))
        ]
        if "device" in result.facts and "device" not in dict(shown):
            shown.append(("device", result.facts["device"]))
    shown.append(("job", f"{record.job_id}{'  (recorded earlier)' if record.from_ledger else ''}"))
    for key, text in [*shown, ("results", str(make_relative_to_cwd(Path(record.output_dir))))]:
        table.add_row(LABELS.get(key, key.replace("_", " ")), text)
    if record.mlflow_run_id is not None:
        experiment = f", experiment {store.experiment}" if store and store.experiment != EXPERIMENT else ""
        table.add_row("MLflow run", f"{record.mlflow_run_id}{experiment}")
    if result.text is not None:
        text = escape_control_characters(result.text) if sys.stdout.isatty() else result.text
        print(text, end="\n\n", flush=True)  # not folded at the width of the terminal
    out.print(title, style="bold")
    out.print(table)
    tables = create_console(non_terminal_width=NO_WIDTH if full else WIDTH)
    if result.rows:
        _print_samples(result.rows, tables)
    for title, rows in {**build_divergence_tables(result.metrics), **result.tables}.items():
        if rows:
            out.print(f"\n{title}", style="bold")
            _print_samples(rows, tables)
    for note in result.notes:
        print_wrapped(out, f"note: {note}", style="yellow")
    # not folded, so that they can be pasted
    for line in _iterate_next_step_hints(record, store, full):
        print(escape_control_characters(line), flush=True)


def _iterate_next_step_hints(record: Record, store: Store | None, full: bool) -> Iterator[str]:
    if record.mlflow_uri is not None:
        if store is not None:
            yield format_hint_line(NEXT, build_compare_command(store))
            yield format_hint_line("", WHAT_COMPARE_SHOWS)
        yield format_hint_line(MLFLOW, format_mlflow_url_or_command(record.mlflow_uri))
    if not full:
        yield format_hint_line(MORE, HOW_TO_SEE_MORE)


def format_headline_metrics(metrics: dict[str, float], full: bool = True) -> dict[str, str]:
    shown = [line for line in LINES if line.has_values(metrics) and (full or not line.detail)]
    if all(line.common for line in shown):
        return {key: format_number(value) for key, value in metrics.items() if "/" not in key}
    of_others = {
        (it := find_metric(key)).title: it.format_value(metrics[key])
        for key in plug_in_metric_keys([metrics])
    }
    return {line.label: line.format_line(metrics) for line in shown} | of_others


def _format_fact_unless_redundant(key: str, value: str, choices: Mapping[str, str]) -> str:
    """Return the text of a fact. Empty for details, and for facts that are already in the table's title."""
    if value == choices.get({"quantized": "quantization", "sampling": "generation"}.get(key, key)):
        return ""
    if key == "rope":
        kind, *settings = value.split(", ")
        is_usual = kind == "default" and len(settings) == 1  # its theta alone, as of most models
        return "" if is_usual and choices.get("rope") == "native" else value
    if key == "prompt":
        fact = PromptFact.from_fact(value)
        return replace(fact, form=None, beginning=fact.beginning).to_fact() if fact.has_two_bos else ""
    return "" if key in DETAILS else value


def _print_samples(samples: list[dict[str, Any]], out: Console) -> None:
    columns = []
    for key in dict.fromkeys(key for row in samples for key in row):
        values = [row.get(key) for row in samples]
        cells = [
            "" if v is None else format_number(v) if isinstance(v, int | float) else str(v) for v in values
        ]
        numeric = all(isinstance(value, int | float | None) for value in values)
        columns.append(Column(format_row_heading(key), cells, numeric, use=ColumnUse.result))
    print_table_fitted_to_terminal(out, columns, "print=full, print=json")
