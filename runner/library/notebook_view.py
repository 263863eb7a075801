"""Displays records and grid results in notebooks, with a picture, a table and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import Any

from runner.render.job_lines import select_grid_table_metrics
from runner.report import OF_LOAD, format_headline_metrics, format_main_metrics
from runner_base import Record, Status, escape_control_characters, svg
from runner_compare import ACCURACY, ENDS, LOG_LIKELIHOOD, find_metric
from runner_engine.models.load_summary import summarize_load

# the first of these is drawn
WITH_INTERVAL = (ACCURACY[0], "acc", "kl_nats_per_token", LOG_LIKELIHOOD)
# as bars, without one
ALONE = ("best_decode_tok_per_s", "best_output_tok_per_s", "decode_tok_per_s", "peak_rss_mib")
LONGEST_REPR = 200
NAME_WIDTH, PLOT_WIDTH, VALUE_WIDTH, ROW_HEIGHT = 230, 300, 190, 22
POINT, LINE = "#1f5fa8", "#9db8d6"
MAX_ROWS = 40
LEFT = 'style="text-align:left"'


@dataclass(repr=False)
class NotebookRecord(Record):
    """Record of a job, returned by `runner.evaluate`, with a notebook display."""

    @classmethod
    def from_record(cls, record: Record) -> NotebookRecord:
        return cls(**{item.name: getattr(record, item.name) for item in fields(Record)})

    def to_df(self) -> Any:
        """Return the metrics as a pandas.DataFrame with one row."""
        import pandas as pd  # type: ignore[import-untyped]

        return pd.DataFrame([{"job_id": self.job_id, "status": self.status.value, **self.result.metrics}])

    def __repr__(self) -> str:
        said = self.error or "" if self.status is not Status.FINISHED else format_main_metrics(self)
        return _truncated_repr(f"{self.job_id}: {self.status.value}, {said}")

    def _repr_html_(self) -> str:
        metrics = self.result.metrics
        loaded = summarize_load(metrics, self.result.facts)
        rows = {
            key: text
            for key, text in format_headline_metrics(metrics).items()
            if not loaded or key not in OF_LOAD
        } | {**loaded}
        if self.status is not Status.FINISHED:
            rows = {"status": f"{self.status.value}: {self.error or ''}", **rows}
        notes = "".join(f"<li>{_escape(note)}</li>" for note in self.result.notes)
        table = _build_html_table([[key, text] for key, text in rows.items()])
        title = f"<p><b>{_escape(self.name or self.job_id)}</b> <small>{_escape(self.job_id)}</small></p>"
        picture = draw_shared_metric_svg([("", metrics)])
        return f"{title}\n{picture}{table}\n{f'<ul>{notes}</ul>' if notes else ''}"


class GridRows(list[dict[str, Any]]):
    """Result table of a grid, returned by `runner.grid`, with one dictionary per job."""

    def __init__(
        self, rows: Iterable[dict[str, Any]], keys: Sequence[str] = (), output_dir: str = ""
    ) -> None:
        super().__init__(rows)
        self.keys = list(keys)  # in which the jobs differ
        self.output_dir = output_dir

    def to_df(self) -> Any:
        """Return the table as a pandas.DataFrame with one row per job."""
        import pandas as pd

        return pd.DataFrame([*self])

    def __repr__(self) -> str:
        finished = sum(row["status"] in FINISHED for row in self)
        varied = ", ".join(self.keys)
        return _truncated_repr(
            f"grid of {len(self)} jobs{(f' over {varied}' if varied else '')}, {finished} finished"
        )

    def _repr_html_(self) -> str:
        shown = [
            column
            for column in select_grid_table_metrics([_numeric_values(row) for row in self])
            if column.key != ACCURACY[0]
        ]
        scored = any(ACCURACY[0] in row for row in self)
        head = [
            *self.keys,
            "status",
            *(["accuracy [95 %]"] if scored else []),
            *(metric.title for metric in shown),
            "job",
        ]
        table = []
        for row in self:
            cells = [_cell_text(row.get(key)) for key in self.keys] + [
                _cell_text(row.get("error") or row["status"])
            ]
            cells += [_format_metric_with_interval(ACCURACY[0], row)] if scored else []
            cells += [metric.format_value(row[metric.key]) if metric.key in row else "" for metric in shown]
            table.append([*cells, _cell_text(row["job_id"])])
        names = [
            " ".join(_cell_text(row.get(key)) for key in self.keys) or str(row["job_id"]) for row in self
        ]
        picture = draw_shared_metric_svg([*zip(names, map(_numeric_values, self), strict=True)])
        return f"{picture}{_build_html_table(table, head)}"


FINISHED = ("finished", "done before", "done")


def draw_shared_metric_svg(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    rows = [row for row in rows if row[1]][:MAX_ROWS]
    key = next(
        (key for key in (*WITH_INTERVAL, *ALONE) if rows and all(key in metrics for _, metrics in rows)), ""
    )
    if not key:
        return ""
    metric = find_metric(key)
    ends = [[metrics.get(f"{key}{end}", metrics[key]) for end in ENDS] for _, metrics in rows]
    lowest, highest = min(map(min, ends)), max(map(max, ends))
    lowest, highest = (0.0, 1.0) if metric.form.endswith("%") else (min(0.0, lowest), max(0.0, highest))
    span = (highest - lowest) or 1.0
    pieces = [
        svg.format_svg_text(
            4, 16, f"{metric.title}{(', 95 % interval' if key in WITH_INTERVAL else '')}", bold=True
        )
    ]
    for number, ((name, metrics), (value, low, high)) in enumerate(zip(rows, ends, strict=True)):
        y = ROW_HEIGHT * (number + 1) + 10

        def to_x(at: float) -> float:
            return NAME_WIDTH + (at - lowest) / span * PLOT_WIDTH

        title = f"{name} {_format_metric_with_interval(key, metrics)}"
        pieces.append(svg.format_svg_text(4, y + 8, name if len(name) <= 34 else f"{name[:33]}…"))
        pieces.append(svg.format_svg_rectangle(to_x(lowest), y + 3, PLOT_WIDTH, 1, "#dddddd", title))
        is_bar = key in ALONE
        begin, end = (to_x(0.0), to_x(value)) if is_bar else (to_x(low), to_x(high))
        pieces.append(svg.format_svg_rectangle(begin, y, max(1.0, end - begin), 7, LINE, title))
        pieces.append(svg.format_svg_rectangle(to_x(value) - 2, y - 2, 4, 11, POINT, title))
        pieces.append(
            svg.format_svg_text(
                NAME_WIDTH + PLOT_WIDTH + 10, y + 8, _format_metric_with_interval(key, metrics)
            )
        )
    return svg.build_svg_document(
        NAME_WIDTH + PLOT_WIDTH + VALUE_WIDTH, ROW_HEIGHT * (len(rows) + 1) + 12, pieces
    )


def _format_metric_with_interval(key: str, metrics: Mapping[str, Any]) -> str:
    metric, values = find_metric(key), [metrics.get(f"{key}{end}") for end in ENDS]
    if values[0] is None:
        return ""
    if None in values:
        return metric.format_value(values[0])
    value, low, high = (metric.format_value(float(value or 0)) for value in values)
    return f"{value} [{low}, {high}]"


def _numeric_values(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _cell_text(value: object) -> str:
    return "" if value is None else str(value)


def _escape(text: str) -> str:
    return escape(escape_control_characters(text))


def _build_html_table(rows: Iterable[Sequence[str]], headers: Sequence[str] = ()) -> str:
    heads = (
        f"<thead><tr>{''.join(f'<th {LEFT}>{_escape(it)}</th>' for it in headers)}</tr></thead>"
        if headers
        else ""
    )
    body = "".join(
        f"<tr>{''.join(f'<td {LEFT}>{_escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows
    )
    return f"<table>{heads}<tbody>\n{body}</tbody></table>"


def _truncated_repr(text: str) -> str:
    text = escape_control_characters(" ".join(text.split()))
    return f"<{text if len(text) <= LONGEST_REPR else text[: LONGEST_REPR - 1] + '…'}>"
