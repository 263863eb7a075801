"""What comes out: a table for people, Markdown, CSV or JSON on stdout; all of them, a page and pictures in a folder."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from runner.compare import pictures
from runner.compare.data import Comparison, Flips, Row, Table
from runner.compare.page import write_page
from runner.compare.pairing import find_flips
from runner.compare.runs import Evidence
from runner.compare.wording import Column, columns, fit, flips_headline, flips_names, ratio_columns, summary, verdict
from runner.core.errors import cannot_write
from runner.core.metrics import ACCURACY
from runner.core.progress import Progress

FLIPS_A_PAIR, PAIRS = 50, 20  # the most that the page shows: lost ones, won ones, and pairs of runs
RATIO = ("ratio", "ratio_low", "ratio_high", "p_holm", "finding")


def _rich(tables: list[Table], out: TextIO) -> None:
    from rich.console import Console
    from rich.markup import escape

    # A pipe or a file has no width: give each table all that it needs rather than cut a number short.
    console = Console(file=out, width=None if out.isatty() else 10_000, highlight=False, soft_wrap=True)
    for table in tables:
        console.print(f"[bold]{escape(table.task)}[/bold]: {len(table.rows)} run{'s' * (len(table.rows) != 1)}")
        found, left_out = fit(columns(table), console.width)
        console.print(_grid(found), soft_wrap=False)
        if left_out:
            console.print(f"no room for: {', '.join(left_out)} (--format markdown, --save)", style="dim")
        if table.has_ratios:
            console.print(_grid(ratio_columns(table)), soft_wrap=False)
        for sentence in table.sentences:
            console.print(f"• {escape(sentence)}")
        console.print("" if not table.baseline else f"{summary(table)}\n", style="dim")
        for flips in table.flips:
            _rich_flips(flips, table, out)


def _grid(found: list[Column]) -> object:
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    grid = RichTable(box=box.SIMPLE, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    for column in found:
        grid.add_column(escape(column.head), justify="right" if column.is_number else "left", overflow="fold")
    for cells in zip(*(column.cells for column in found), strict=True):
        grid.add_row(*map(escape, cells))
    return grid


def _rich_flips(flips: Flips, table: Table, out: TextIO) -> None:
    """Print each question with both answers side by side, the baseline's on the left."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=out, width=None if out.isatty() else 120, highlight=False)
    ours, theirs = flips_names(flips, table)
    console.print(Text(flips_headline(flips, table), style="bold"))
    for flip in flips.questions:
        mark, style = ("won", "green") if flip.won else ("lost", "red")
        gold = (f"gold {flip.gold}", "bold")
        console.print(Text.assemble("\n", (mark, style), (f" #{flip.index} ", "bold"), f"{flip.question}  ", gold))
        grid = RichTable(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0), expand=True, header_style="")
        for name, side in ((theirs, flip.theirs), (ours, flip.ours)):
            grid.add_column(Text.assemble((name, "bold"), f"  {verdict(side)}"), ratio=1, overflow="fold")
        grid.add_row(Text(flip.theirs["text"]), Text(flip.ours["text"]))
        console.print(grid)
    console.print()


def _markdown(tables: list[Table], out: TextIO) -> None:
    """Write the tables as Markdown."""
    for table in tables:
        out.write(f"### {table.task}\n\n")
        _markdown_grid(columns(table), out)
        if table.has_ratios:
            _markdown_grid(ratio_columns(table), out)
        out.writelines(f"- {sentence}\n" for sentence in table.sentences)
        if table.baseline:
            out.write(f"\n{summary(table)}\n\n")
        for flips in table.flips:
            out.write(f"#### {flips_headline(flips, table)}\n\n")
            for flip in flips.questions:
                mark = "won" if flip.won else "lost"
                out.write(f"- **{mark}, question {flip.index}:** {_one_line(flip.question)} Gold: {flip.gold}\n")
                for name, side in zip(flips_names(flips, table), (flip.ours, flip.theirs), strict=True):
                    out.write(f"  - {name}: {verdict(side)}; says: {_one_line(side['text'])}\n")
            out.write("\n")


def _markdown_grid(found: list[Column], out: TextIO) -> None:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |\n"

    out.write(line([column.head for column in found]))
    out.write(line(["---:" if column.is_number else "---" for column in found]))
    out.writelines(line(list(cells)) for cells in zip(*(column.cells for column in found), strict=True))
    out.write("\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _record(table: Table, row: Row) -> dict[str, Any]:
    """Return a row as plain data: what it is, its config, its metrics, how it compares."""
    run = row.run
    metrics = dict(sorted(run.metrics.items()))
    if run.interval:  # from the counts, so that every table has the same interval
        metrics |= dict(zip(ACCURACY[1:], run.interval[1:], strict=True))
    return {
        "task": table.task,
        "job_id": run.job_id,
        "run_id": run.run_id,
        "output_dir": run.folder,
        "config": row.config,
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "is_baseline": row.is_baseline,
        "comparison": asdict(row.comparison) if row.comparison else None,
        "ratios": [asdict(it) for it in row.ratios],
        "on_front": row.on_front,
        "dominated_by": row.dominated_by,
        "off_front": row.off_front,
        "note": row.note,
    }


def _json(tables: list[Table], out: TextIO) -> None:
    """Write everything as JSON."""
    content = [
        {
            "task": table.task,
            "baseline": table.baseline,
            "differing_keys": table.keys,
            "pareto_axes": [ACCURACY[0], *table.axes] if table.axes else [],
            "rows": [_record(table, row) for row in table.rows],
            "sentences": table.sentences,
            **({"flips": [asdict(it) for it in table.flips]} if table.flips else {}),
        }
        for table in tables
    ]
    json.dump({"tables": content}, out, indent=2, ensure_ascii=False)
    out.write("\n")


def _csv(tables: list[Table], out: TextIO) -> None:
    """Write one sheet for all tables: the columns of every task, empty where a run has no such number."""
    lines: list[dict[str, Any]] = []
    for table in tables:
        for row in table.rows:
            line = _record(table, row)
            config, metrics, comparison = (line.pop(part) or {} for part in ("config", "metrics", "comparison"))
            ratios = {f"{name}/{it['measure']}": it[name] for it in line.pop("ratios") for name in RATIO}
            lines.append({**line, **config, **metrics, **ratios, **comparison})
    first = ["task", "job_id", *(key for table in tables for key in table.keys)]
    last = [*Comparison.__dataclass_fields__, "is_baseline", "note", "on_front", "dominated_by", "run_id", "output_dir"]
    middle = sorted({name for line in lines for name in line} - set(first) - set(last))
    if not any(table.baseline for table in tables):
        last = ["on_front", "dominated_by", "run_id", "output_dir"]
    writer = csv.DictWriter(
        out, list(dict.fromkeys([*first, *middle, *last])), extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)


FORMATS = {"table": _rich, "markdown": _markdown, "json": _json, "csv": _csv}


def render(tables: list[Table], style: str, out: TextIO) -> None:
    """Print the tables in the style asked for."""
    FORMATS[style](tables, out)


def save(tables: list[Table], folder: Path, evidence: Evidence, asked: dict[str, str]) -> list[str]:
    """Write the files and return their names."""
    with Progress(None, "drawing"):
        parts = [(table, pictures.draw(table), table.flips or flips_of(table, evidence)) for table in tables]
    names: list[str] = []

    def path(name: str) -> Path:
        names.append(name)
        return folder / name

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path("comparison.html").open("w", encoding="utf-8") as out:
            write_page(parts, asked, out)
        for name, write in (("md", _markdown), ("csv", _csv), ("json", _json)):
            with path(f"comparison.{name}").open("w", encoding="utf-8", newline="") as out:
                write(tables, out)
        several = sum(bool(figures) for _, figures, _ in parts) > 1
        for table, figures, _ in parts:
            for figure in figures:
                stem = f"{figure.name}_{table.task}" if several else figure.name
                path(f"{stem}.png").write_bytes(figure.png())
                path(f"{stem}.svg").write_text(figure.svg(), encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error, "--save") from error
    return names


def flips_of(table: Table, evidence: Evidence) -> list[Flips]:
    """Return the flips that a page shows under a table: of each paired comparison, as far as there is room."""
    shown = [row for row in table.rows if row.comparison and (row.comparison.wins or row.comparison.losses)][:PAIRS]
    return [find_flips(row.run, row.baseline.run, evidence, FLIPS_A_PAIR) for row in shown if row.baseline]
