"""Renders the comparison of model files as a table, sentences, JSON data and a plot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runner_base import Column, ColumnUse, Picture, join_first_names
from runner_base.drawing import FRONT, MUTED
from runner_base.machine import EXCLUSIVE
from runner_compare.features.files.ranks import KL, FileRow, FileTable, JobKind, find_tied_file_groups
from runner_compare.features.tokens.render.divergence_picture import KlPoint, draw_kl_points
from runner_compare.metrics import ENDS, find_metric
from runner_compare.model.data import ABSENT, MAX_NAMED, TableRow
from runner_compare.model.repeated_runs import describe_contention
from runner_compare.render.columns import USES, build_margin_columns, build_metric_column, format_accuracy
from runner_compare.render.conclusion import conclusion_text
from runner_compare.render.effects import (
    build_effect_records_by_key,
    format_difference,
    format_difference_heading,
)
from runner_compare.render.labels import format_number
from runner_compare.render.lines import escape_mathtext
from runner_compare.render.pictures import move_overlapping_labels_apart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# after the name: what a file costs, from the first kind of job that has it, each with its order of
# leaving a terminal
COSTS = {"file_mib": 0, "model_mib": 0, "peak_rss_mib": 2, "load_s": 3}
MARKS = {None: ABSENT, True: "front", False: "dominated"}
AGREES = "top_1_agreement"
LEGEND = (
    "A line is a model file; its jobs are joined by the SHA-256 of its content. KL and Δ are to the reference, on "
    "the same documents. Intervals of KL hold 95 % each, those of Δ together. KL rank: the ranks that a file may have, "
    "after those that a test shows to be closer and before those shown to be farther (two-sided, paired on the "
    "documents, Holm over all pairs of files). Front: no other file with no more bytes and memory is shown to have a "
    "lower KL"
)
NO_SPEED = (
    "The Pareto front ignores speed, because a single job per file cannot show its variation. To include "
    "speed, set its noise with --tolerance PERCENT"
)


def create_kl_over_size_pictures(table: FileTable) -> list[Picture]:
    """Return the plot of KL divergence by file size; [] if no file was ranked."""
    title = (
        "KL divergence from the reference by file size, with 95 % intervals. Filled markers are on the "
        "Pareto front of bytes, memory and KL divergence"
    )
    is_drawn = any(file.on_front is not None and not file.is_reference for file in table.files)
    return [Picture("files", title, lambda: draw_kl_over_file_size(table))] if is_drawn else []


def draw_kl_over_file_size(table: FileTable) -> Figure:
    """Plot each file's KL divergence, on a logarithmic axis, against the file size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.8, 4.4), layout="constrained")
    pane = figure.subplots()
    points = []
    for file in table.files:
        kl, low, high = (file.find_metric(f"{KL}{end}", JobKind.likelihood) for end in ENDS)
        size = next(
            (file.find_metric("file_mib", kind) for kind in JobKind if file.find_metric("file_mib", kind)),
            None,
        )
        if file.is_reference or not kl or not size:
            continue
        colour = FRONT if file.on_front else MUTED
        points.append(
            KlPoint(escape_mathtext(file.name), size, kl, low, high, colour, is_filled=bool(file.on_front))
        )
    move_overlapping_labels_apart(figure, [draw_kl_points(pane, points, "file, MiB")])
    return figure


def build_file_columns(table: FileTable) -> list[Column]:
    files = table.files
    names = [f"{file.name} (reference)" if file.is_reference else file.name for file in files]
    columns = [Column("file", names, False, use=ColumnUse.setting)]
    for metric, drop_order in COSTS.items():
        if (kind := table.find_kind(metric)) is not None:
            cells = [format_number(file.find_metric(metric, kind)) for file in files]
            columns.append(
                Column(find_metric(metric).head, cells, True, drop_order, USES.get(metric, ColumnUse.more))
            )
    for rows, metric in table.find_decode_speed_metrics().items():
        head = f"decode tok/s\n{rows} row{'s' * (rows != 1)}"
        columns.append(
            Column(
                head,
                [format_number(file.find_metric(metric, JobKind.speed)) for file in files],
                use=ColumnUse.speed,
            )
        )
    if JobKind.likelihood in table.tables:
        differences = _format_rows(files, JobKind.likelihood, _format_difference)
        head = format_difference_heading(
            "log-likelihood\nnats/token", _rows_of_kind(files, JobKind.likelihood)
        )
        columns.append(Column(head, differences, use=ColumnUse.verdict))
        columns += build_margin_columns([file.rows.get(JobKind.likelihood) for file in files])
    if any(file.find_metric(KL, JobKind.likelihood) is not None for file in files):
        columns.append(_metric_column(KL, files))
        columns.append(Column("KL\nrank", [_format_rank(file) for file in files], use=ColumnUse.verdict))
        columns.append(_metric_column(AGREES, files, 4))
    if any(JobKind.accuracy in file.rows for file in files):
        columns.append(
            Column("accuracy", _format_rows(files, JobKind.accuracy, format_accuracy), use=ColumnUse.result)
        )
    if JobKind.accuracy in table.tables:
        columns.append(
            Column(
                format_difference_heading("points", _rows_of_kind(files, JobKind.accuracy)),
                _format_rows(files, JobKind.accuracy, _format_difference),
                use=ColumnUse.verdict,
            )
        )
        columns += build_margin_columns([file.rows.get(JobKind.accuracy) for file in files])
    if any(file.on_front is not None for file in files):
        head = f"{format_axis_names(table)}\nand KL"
        columns.append(Column(head, [MARKS[file.on_front] for file in files], False, use=ColumnUse.verdict))
    return columns


def format_model_file_sentences(table: FileTable) -> list[str]:
    conclusions = {kind: conclusion_text(of.candidate_rows) for kind, of in table.tables.items()}
    lines = [f"{kind}: {text}" for kind, text in conclusions.items() if text]
    if table.why_no_ranks:
        lines.append(f"files are not ranked by KL divergence and have no Pareto front: {table.why_no_ranks}")
    lines += _format_pareto_front_sentences(table)
    if ties := find_tied_file_groups(table):
        lines.append(
            "KL divergence does not differ significantly between these files: "
            f"{'; '.join(join_first_names(group, 12) for group in ties)}"
        )
    notes = [
        f"{file.name}: {kind} not compared, {row.note}"
        for file in table.files
        for kind, row in file.rows.items()
        if row.note
    ]
    kinds = [kind for kind in JobKind if any(kind in file.rows for file in table.files)]
    missing = [
        f"{file.name} has no {' job and no '.join(absent)} job"
        for file in table.files
        if (absent := [str(kind) for kind in kinds if kind not in file.rows])
    ]
    busy = [
        file.name
        for file in table.files
        if JobKind.speed in file.rows and describe_contention(file.rows[JobKind.speed].run) != EXCLUSIVE
    ]
    if busy:
        lines.append(
            f"other processes slowed down the speed measurements of {join_first_names(busy, MAX_NAMED)}"
        )
    return [*lines, *notes, *missing]


def format_file_legend(table: FileTable) -> str:
    margin = table.margin
    less = (
        ""
        if margin is None
        else f", or to be smaller with a KL that is higher by less than {margin:g} nats a token"
    )
    speed = "" if table.tolerance is not None or not table.find_decode_speed_metrics() else f" {NO_SPEED}."
    counted = (
        "" if table.tolerance is None else f" Speeds count if they differ by more than {table.tolerance:.3g}."
    )
    return f"{LEGEND}{less}.{counted}{speed}"


def build_file_records(table: FileTable) -> list[dict[str, Any]]:
    kinds = {name: table.find_kind(name) for name in COSTS}
    return [
        {
            "file": file.name,
            "model": next(iter(file.rows.values())).run.params.get("model.name", ""),
            "is_reference": file.is_reference,
            "jobs": {str(kind): row.run.job_id for kind, row in file.rows.items()},
            "costs": {
                name: None if kind is None else file.find_metric(name, kind) for name, kind in kinds.items()
            },
            "decode_tok_per_s": {
                str(rows): file.find_metric(name, JobKind.speed)
                for rows, name in table.find_decode_speed_metrics().items()
            },
            "accuracy": file.find_metric("accuracy", JobKind.accuracy),
            **{
                f"{name}{end}": file.find_metric(f"{name}{end}", JobKind.likelihood)
                for name in (KL,)
                for end in ENDS
            },
            "comparison": _find_record(file, JobKind.accuracy, "comparison"),
            "shift": _find_record(file, JobKind.likelihood, "shift"),
            "kl_rank": None if file.kl_rank is None else [*file.kl_rank],
            "closer_than": file.closer_than,
            "on_front": file.on_front,
            "dominated_by": file.dominated_by,
        }
        for file in table.files
    ]


def format_axis_names(table: FileTable) -> str:
    return "bytes, memory" if table.tolerance is None else "bytes, memory, speed"


def _format_pareto_front_sentences(table: FileTable) -> list[str]:
    front = [file.name for file in table.files if file.on_front]
    if not front:
        return []
    lines = [f"Pareto front of {format_axis_names(table)} and KL divergence: {join_first_names(front, 12)}"]
    beaten = [
        f"{file.name} by {join_first_names(file.dominated_by, 3)}"
        for file in table.files
        if file.dominated_by
    ]
    return lines + ([f"dominated: {'; '.join(beaten)}"] if beaten else [])


def _format_rank(file: FileRow) -> str:
    if file.kl_rank is None:
        return "" if file.is_reference else ABSENT
    low, high = file.kl_rank
    return str(low) if low == high else f"{low}–{high}"


def _find_record(file: FileRow, kind: JobKind, key: str) -> Any:
    return build_effect_records_by_key(file.rows[kind]).get(key) if kind in file.rows else None


def _format_rows(files: list[FileRow], kind: JobKind, format_row: Callable[[TableRow], str]) -> list[str]:
    return [format_row(file.rows[kind]) if kind in file.rows else ABSENT for file in files]


def _rows_of_kind(files: list[FileRow], kind: JobKind) -> list[TableRow | None]:
    return [file.rows.get(kind) for file in files]


def _format_difference(row: TableRow) -> str:
    if row.effect is None:
        return "baseline" if row.is_baseline else ABSENT
    return f"{format_difference(row)} {row.effect.finding}"


def _metric_column(metric: str, files: list[FileRow], drop_order: int = 0) -> Column:
    runs = [file.rows[JobKind.likelihood].run if JobKind.likelihood in file.rows else None for file in files]
    return build_metric_column(metric, runs, drop_order)
