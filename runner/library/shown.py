"""How a record and the rows of a grid look in a notebook: a picture, a table, the notes; and one
line elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import Any

from runner.render.job_lines import grid_columns
from runner.report import brief, headline
from runner_base import Record, Status, plain, svg
from runner_compare import ACCURACY, ENDS, LOG_LIKELIHOOD, described
from runner_engine.models.loaded_lines import SHOWN, lines

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
class ShownRecord(Record):
    """A job's record, as `runner.evaluate` returns it."""

    @classmethod
    def of(cls, record: Record) -> ShownRecord:
        """Return a record as one that a notebook shows."""
        return cls(**{item.name: getattr(record, item.name) for item in fields(Record)})

    def to_df(self) -> Any:
        """Return the metrics as a pandas.DataFrame of one line."""
        import pandas as pd  # type: ignore[import-untyped]

        return pd.DataFrame([{"job_id": self.job_id, "status": self.status.value, **self.result.metrics}])

    def __repr__(self) -> str:
        said = self.error or "" if self.status is not Status.FINISHED else brief(self)
        return _one_line(f"{self.job_id}: {self.status.value}, {said}")

    def _repr_html_(self) -> str:
        metrics = self.result.metrics
        loaded = lines(metrics, self.result.facts)
        rows = {key: text for key, text in headline(metrics).items() if not loaded or key not in SHOWN} | {
            **loaded
        }
        if self.status is not Status.FINISHED:
            rows = {"status": f"{self.status.value}: {self.error or ''}", **rows}
        notes = "".join(f"<li>{_text(note)}</li>" for note in self.result.notes)
        table = _table([[key, text] for key, text in rows.items()])
        title = f"<p><b>{_text(self.name or self.job_id)}</b> <small>{_text(self.job_id)}</small></p>"
        return f"{title}\n{picture([('', metrics)])}{table}\n{f'<ul>{notes}</ul>' if notes else ''}"


class GridRows(list[dict[str, Any]]):
    """The rows of a grid, a dictionary for each job, as `runner.grid` returns them."""

    def __init__(
        self, rows: Iterable[dict[str, Any]], keys: Sequence[str] = (), output_dir: str = ""
    ) -> None:
        super().__init__(rows)
        self.keys = list(keys)  # in which the jobs differ
        self.output_dir = output_dir

    def to_df(self) -> Any:
        """Return a pandas.DataFrame with a line for each job."""
        import pandas as pd

        return pd.DataFrame([*self])

    def __repr__(self) -> str:
        finished = sum(row["status"] in FINISHED for row in self)
        varied = ", ".join(self.keys)
        return _one_line(
            f"grid of {len(self)} jobs{(f' over {varied}' if varied else '')}, {finished} finished"
        )

    def _repr_html_(self) -> str:
        shown = [
            column for column in grid_columns([_numbers(row) for row in self]) if column.key != ACCURACY[0]
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
            cells = [_value(row.get(key)) for key in self.keys] + [_value(row.get("error") or row["status"])]
            cells += [_interval_text(ACCURACY[0], row)] if scored else []
            cells += [metric.write(row[metric.key]) if metric.key in row else "" for metric in shown]
            table.append([*cells, _value(row["job_id"])])
        names = [" ".join(_value(row.get(key)) for key in self.keys) or str(row["job_id"]) for row in self]
        return f"{picture([*zip(names, map(_numbers, self), strict=True)])}{_table(table, head)}"


FINISHED = ("finished", "done before", "done")


def picture(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Return the first number that all rows have, with its interval, as an SVG; empty if they share
    none."""
    rows = [row for row in rows if row[1]][:MAX_ROWS]
    key = next(
        (key for key in (*WITH_INTERVAL, *ALONE) if rows and all(key in metrics for _, metrics in rows)), ""
    )
    if not key:
        return ""
    metric = described(key)
    ends = [[metrics.get(f"{key}{end}", metrics[key]) for end in ENDS] for _, metrics in rows]
    lowest, highest = min(map(min, ends)), max(map(max, ends))
    lowest, highest = (0.0, 1.0) if metric.form.endswith("%") else (min(0.0, lowest), max(0.0, highest))
    span = (highest - lowest) or 1.0
    pieces = [
        svg.text(4, 16, f"{metric.title}{(', 95 % interval' if key in WITH_INTERVAL else '')}", bold=True)
    ]
    for number, ((name, metrics), (value, low, high)) in enumerate(zip(rows, ends, strict=True)):
        y = ROW_HEIGHT * (number + 1) + 10

        def x(at: float) -> float:
            return NAME_WIDTH + (at - lowest) / span * PLOT_WIDTH

        title = f"{name} {_interval_text(key, metrics)}"
        pieces.append(svg.text(4, y + 8, name if len(name) <= 34 else f"{name[:33]}…"))
        pieces.append(svg.box(x(lowest), y + 3, PLOT_WIDTH, 1, "#dddddd", title))
        is_bar = key in ALONE
        begin, end = (x(0.0), x(value)) if is_bar else (x(low), x(high))
        pieces.append(svg.box(begin, y, max(1.0, end - begin), 7, LINE, title))
        pieces.append(svg.box(x(value) - 2, y - 2, 4, 11, POINT, title))
        pieces.append(svg.text(NAME_WIDTH + PLOT_WIDTH + 10, y + 8, _interval_text(key, metrics)))
    return svg.document(NAME_WIDTH + PLOT_WIDTH + VALUE_WIDTH, ROW_HEIGHT * (len(rows) + 1) + 12, pieces)


def _interval_text(key: str, row: Mapping[str, Any]) -> str:
    metric, values = described(key), [row.get(f"{key}{end}") for end in ENDS]
    if values[0] is None:
        return ""
    if None in values:
        return metric.write(values[0])
    value, low, high = (metric.write(float(value or 0)) for value in values)
    return f"{value} [{low}, {high}]"


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _value(value: object) -> str:
    return "" if value is None else str(value)


def _text(text: str) -> str:
    return escape(plain(text))


def _table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    heads = (
        f"<thead><tr>{''.join(f'<th {LEFT}>{_text(it)}</th>' for it in head)}</tr></thead>" if head else ""
    )
    body = "".join(f"<tr>{''.join(f'<td {LEFT}>{_text(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table>{heads}<tbody>\n{body}</tbody></table>"


def _one_line(text: str) -> str:
    text = plain(" ".join(text.split()))
    return f"<{text if len(text) <= LONGEST_REPR else text[: LONGEST_REPR - 1] + '…'}>"
