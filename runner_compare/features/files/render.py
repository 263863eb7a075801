"""Model files as a table, sentences, plain data and a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runner_base import Column, Picture, Use, few
from runner_base.drawing import FRONT, MUTED
from runner_base.machine import EXCLUSIVE
from runner_compare.features.files.ranks import KL, FileRow, FileTable, Kind, tied_groups
from runner_compare.features.tokens.render.divergence_picture import KlPoint, draw_points
from runner_compare.metrics import ENDS, described
from runner_compare.model.data import ABSENT, MAX_NAMED, TableRow
from runner_compare.model.repeated_runs import contention
from runner_compare.render.columns import USES, accuracy_of, margin_column, measured
from runner_compare.render.conclusion import conclude
from runner_compare.render.effects import difference_head, difference_of, records
from runner_compare.render.labels import number
from runner_compare.render.lines import literal
from runner_compare.render.pictures import separate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# after the name: what a file costs, from the first kind of job that has it, each with its order of
# leaving a terminal
COSTS = {"file_mib": 0, "model_mib": 0, "peak_rss_mib": 2, "load_s": 3}
MARKS = {None: ABSENT, True: "front", False: "dominated"}
AGREES = "top_1_agreement"
LEGEND = (
    "A line is a model file: its jobs are joined by the SHA-256 of its content. KL and Δ are to the reference, on "
    "the same texts; intervals of KL hold 95 % each, those of Δ together. KL rank: the places that a file may have "
    "among the others, after those that a test shows to be closer and before those shown to be farther (two-sided, "
    "paired on the texts, Holm over all pairs of files). front: no other file with no more bytes and memory is shown "
    "to have a lower KL"
)
NO_SPEED = (
    "The front does not count speed: one job of each file does not show how far speeds differ by themselves. To count "
    "it, give that noise: --tolerance PERCENT"
)


def draw_files(table: FileTable) -> list[Picture]:
    """Return the picture of a table of model files: none without a KL."""
    title = (
        "KL to the reference over the size of the file, with 95 % intervals; filled: on the front of bytes, memory and "
        "KL, no file there dominates it beyond noise"
    )
    is_drawn = any(file.on_front is not None and not file.is_reference for file in table.files)
    return [Picture("files", title, lambda: kl_over_size(table))] if is_drawn else []


def kl_over_size(table: FileTable) -> Figure:
    """Draw the KL of each file, on a logarithmic axis, over its size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.8, 4.4), layout="constrained")
    pane = figure.subplots()
    points = []
    for file in table.files:
        kl, low, high = (file.metric(f"{KL}{end}", Kind.likelihood) for end in ENDS)
        size = next((file.metric("file_mib", kind) for kind in Kind if file.metric("file_mib", kind)), None)
        if file.is_reference or not kl or not size:
            continue
        colour = FRONT if file.on_front else MUTED
        points.append(KlPoint(literal(file.name), size, kl, low, high, colour, is_filled=bool(file.on_front)))
    separate(figure, [draw_points(pane, points, "file, MiB")])
    return figure


def file_columns(table: FileTable) -> list[Column]:
    files = table.files
    names = [f"{file.name} (reference)" if file.is_reference else file.name for file in files]
    columns = [Column("file", names, False, use=Use.setting)]
    for metric, drop_order in COSTS.items():
        if (kind := table.kind_of(metric)) is not None:
            cells = [number(file.metric(metric, kind)) for file in files]
            columns.append(
                Column(described(metric).head, cells, True, drop_order, USES.get(metric, Use.more))
            )
    for rows, metric in table.speeds().items():
        head = f"decode tok/s\n{rows} row{'s' * (rows != 1)}"
        columns.append(
            Column(head, [number(file.metric(metric, Kind.speed)) for file in files], use=Use.speed)
        )
    if Kind.likelihood in table.tables:
        differences = _of_rows(files, Kind.likelihood, _difference)
        head = difference_head("log-likelihood\nnats/token", _rows(files, Kind.likelihood))
        columns.append(Column(head, differences, use=Use.verdict))
        columns += margin_column([file.rows.get(Kind.likelihood) for file in files])
    if any(file.metric(KL, Kind.likelihood) is not None for file in files):
        columns.append(_measured(KL, files))
        columns.append(Column("KL\nrank", [_rank(file) for file in files], use=Use.verdict))
        columns.append(_measured(AGREES, files, 4))
    if any(Kind.accuracy in file.rows for file in files):
        columns.append(Column("accuracy", _of_rows(files, Kind.accuracy, accuracy_of), use=Use.result))
    if Kind.accuracy in table.tables:
        columns.append(
            Column(
                difference_head("points", _rows(files, Kind.accuracy)),
                _of_rows(files, Kind.accuracy, _difference),
                use=Use.verdict,
            )
        )
        columns += margin_column([file.rows.get(Kind.accuracy) for file in files])
    if any(file.on_front is not None for file in files):
        head = f"{axes_words(table)}\nand KL"
        columns.append(Column(head, [MARKS[file.on_front] for file in files], False, use=Use.verdict))
    return columns


def file_sentences(table: FileTable) -> list[str]:
    """Return what the table shows, in words."""
    conclusions = {kind: conclude(of.settings) for kind, of in table.tables.items()}
    lines = [f"{kind}: {text}" for kind, text in conclusions.items() if text]
    if table.why_no_ranks:
        lines.append(f"KL is not ranked, and there is no front: {table.why_no_ranks}")
    lines += _front_sentences(table)
    if ties := tied_groups(table):
        lines.append(f"KL does not tell apart: {'; '.join(few(group, 12) for group in ties)}")
    notes = [
        f"{file.name}: {kind} not compared, {row.note}"
        for file in table.files
        for kind, row in file.rows.items()
        if row.note
    ]
    kinds = [kind for kind in Kind if any(kind in file.rows for file in table.files)]
    missing = [
        f"{file.name} has no {' and no '.join(absent)}"
        for file in table.files
        if (absent := [str(kind) for kind in kinds if kind not in file.rows])
    ]
    busy = [
        file.name
        for file in table.files
        if Kind.speed in file.rows and contention(file.rows[Kind.speed].run) != EXCLUSIVE
    ]
    if busy:
        lines.append(f"speeds measured beside other work, and so too low: {few(busy, MAX_NAMED)}")
    return [*lines, *notes, *missing]


def file_legend(table: FileTable) -> str:
    """Return the legend under the table."""
    margin = table.margin
    less = (
        ""
        if margin is None
        else f", or to be smaller with a KL that is higher by less than {margin:g} nats a token"
    )
    speed = "" if table.tolerance is not None or not table.speeds() else f" {NO_SPEED}."
    counted = (
        "" if table.tolerance is None else f" Speeds count if they differ by more than {table.tolerance:.3g}."
    )
    return f"{LEGEND}{less}.{counted}{speed}"


def file_records(table: FileTable) -> list[dict[str, Any]]:
    """Return each file as plain data."""
    kinds = {name: table.kind_of(name) for name in COSTS}
    return [
        {
            "file": file.name,
            "model": next(iter(file.rows.values())).run.params.get("model.name", ""),
            "is_reference": file.is_reference,
            "jobs": {str(kind): row.run.job_id for kind, row in file.rows.items()},
            "costs": {
                name: None if kind is None else file.metric(name, kind) for name, kind in kinds.items()
            },
            "decode_tok_per_s": {
                str(rows): file.metric(name, Kind.speed) for rows, name in table.speeds().items()
            },
            "accuracy": file.metric("accuracy", Kind.accuracy),
            **{
                f"{name}{end}": file.metric(f"{name}{end}", Kind.likelihood) for name in (KL,) for end in ENDS
            },
            "comparison": _record(file, Kind.accuracy, "comparison"),
            "shift": _record(file, Kind.likelihood, "shift"),
            "kl_rank": None if file.kl_rank is None else [*file.kl_rank],
            "closer_than": file.closer_than,
            "on_front": file.on_front,
            "dominated_by": file.dominated_by,
        }
        for file in table.files
    ]


def axes_words(table: FileTable) -> str:
    """Name the axes of the front besides KL."""
    return "bytes, memory" if table.tolerance is None else "bytes, memory, speed"


def _front_sentences(table: FileTable) -> list[str]:
    front = [file.name for file in table.files if file.on_front]
    if not front:
        return []
    lines = [f"on the front of {axes_words(table)} and KL: {few(front, 12)}"]
    beaten = [f"{file.name} by {few(file.dominated_by, 3)}" for file in table.files if file.dominated_by]
    return lines + ([f"dominated: {'; '.join(beaten)}"] if beaten else [])


def _rank(file: FileRow) -> str:
    if file.kl_rank is None:
        return "" if file.is_reference else ABSENT
    low, high = file.kl_rank
    return str(low) if low == high else f"{low}–{high}"


def _record(file: FileRow, kind: Kind, key: str) -> Any:
    return records(file.rows[kind]).get(key) if kind in file.rows else None


def _of_rows(files: list[FileRow], kind: Kind, write: Callable[[TableRow], str]) -> list[str]:
    return [write(file.rows[kind]) if kind in file.rows else ABSENT for file in files]


def _rows(files: list[FileRow], kind: Kind) -> list[TableRow | None]:
    return [file.rows.get(kind) for file in files]


def _difference(row: TableRow) -> str:
    if row.effect is None:
        return "baseline" if row.is_baseline else ABSENT
    return f"{difference_of(row)} {row.effect.finding}"


def _measured(metric: str, files: list[FileRow], drop_order: int = 0) -> Column:
    runs = [file.rows[Kind.likelihood].run if Kind.likelihood in file.rows else None for file in files]
    return measured(metric, runs, drop_order)
