"""The outputs: a table for people, Markdown, CSV or JSON on stdout; all of them, a page and
pictures in a folder."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any, TextIO

from runner_base import Column, Picture, Progress, cannot_write, plain
from runner_base.console import console
from runner_base.printed_tables import print_fitted
from runner_base.tables import NO_WIDTH, say_item, say_lines
from runner_compare.features.cut_offs.render import flat_ends
from runner_compare.features.front.compute import Front
from runner_compare.features.front.render import noise_words
from runner_compare.features.registry import every_section
from runner_compare.metrics import ACCURACY
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import Table
from runner_compare.reader import Reader
from runner_compare.render import pictures
from runner_compare.render.columns import summary
from runner_compare.render.conclusion import conclude
from runner_compare.render.escaping import in_markdown, in_sheet
from runner_compare.render.forest import forest
from runner_compare.render.page import Part, write_page
from runner_compare.render.parts import further_parts, sentences_of, shown
from runner_compare.render.quantities import ACCURACIES, DIFFERENCES, REPEATS
from runner_compare.render.row_records import core_record, row_record
from runner_compare.render.samples_page import write_samples_page
from runner_compare.section import BelowTables, FurtherLines, OnPages, PicturesOfJobs

SAMPLES_PAGE = "samples.html"
RATIO = ("ratio", "ratio_low", "ratio_high", "runs", "p_holm", "finding", "verdict")


def _rich(comparison: Comparison, out: TextIO) -> None:
    from rich.text import Text

    terminal = console(out, width_elsewhere=NO_WIDTH)
    for part in shown(comparison):
        table = part.table
        if part.is_headed:
            runs = f": {part.runs}" if part.runs else ""
            say_lines(terminal, Text.assemble((plain(part.title), "bold"), runs))
        if part.conclusion:
            say_lines(terminal, part.conclusion, style="bold")
        for grid in part.grids:
            if grid.title:
                say_lines(terminal, grid.title)
            print_fitted(
                terminal,
                grid.columns,
                "--format markdown, --save",
                frame="SIMPLE",
                padding=(0, 1, 0, 0),
                header_style="bold",
                show_edge=False,
            )
        for line, style in forest(table.rows, table.keys, terminal.width, out.encoding) if table else []:
            terminal.print(Text(line, style), soft_wrap=True)
        for sentence, _ in part.sentences:
            say_item(terminal, sentence)
        legend = summary(table, comparison.explain) if table else part.legend
        if legend or table:
            say_lines(terminal, f"{legend}\n" if legend else "", style="dim")
        if table:
            for section in _below_tables():
                section.terminal(table, out)


def _markdown(comparison: Comparison, out: TextIO) -> None:
    for part in shown(comparison):
        out.write(f"### {in_markdown(part.title)}\n\n")
        if part.conclusion:
            out.write(f"**{in_markdown(part.conclusion)}**\n\n")
        for grid in part.grids:
            if grid.title:
                out.write(f"{in_markdown(grid.title)}:\n\n")
            _markdown_grid(grid.columns, out)
        out.writelines(f"- {in_markdown(sentence)}\n" for sentence, _ in part.sentences)
        out.writelines(f"- {in_markdown(sentence)}\n" for sentence in part.failed)
        if part.legend:
            out.write(f"\n{in_markdown(part.legend)}\n\n")
        if part.table:
            out.writelines(section.markdown(part.table) for section in _below_tables())


def _markdown_grid(columns_shown: list[Column], out: TextIO) -> None:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(in_markdown(cell).replace("|", "\\|") for cell in cells) + " |\n"

    out.write(line([column.head for column in columns_shown]))
    out.write(line(["---:" if column.is_number else "---" for column in columns_shown]))
    out.writelines(
        line(list(cells)) for cells in zip(*(column.cells for column in columns_shown), strict=True)
    )
    out.write("\n")


def _json(comparison: Comparison, out: TextIO) -> None:
    """Write everything as JSON."""
    tables = comparison.tables
    content = [
        {
            "task": table.task,
            "baseline": table.baseline,
            "conclusion": conclude(table.settings),
            "differing_keys": table.keys,
            "pareto_axes": [ACCURACY[0], *table.of(Front).axes] if table.of(Front).axes else [],
            "pareto_noise": noise_words(table.of(Front)),
            "rows": [row_record(table, row) for row in table.rows],
            "sentences": sentences_of(table),
            **{key: value for section in every_section() for key, value in section.record(table).items()},
        }
        for table in tables
    ]
    whole: dict[str, Any] = {"tables": content}
    for section in every_section():
        whole |= section.record_across(comparison)
    text = json.dumps(whole, indent=2, ensure_ascii=False)
    out.write(re.sub(r"[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def _csv(comparison: Comparison, out: TextIO) -> None:
    """Write one sheet for all tables: the columns of every task, empty if a run has no such
    number."""
    tables = comparison.tables
    writer = csv.writer(out, lineterminator="\n")
    if alone := next((part for part in further_parts(comparison) if part.is_alone), None):
        columns = alone.grids[0].columns
        writer.writerow([in_sheet(" ".join(column.head.split())) for column in columns])
        writer.writerows(
            map(in_sheet, line) for line in zip(*(column.cells for column in columns), strict=True)
        )
        return
    lines = flat_lines(comparison)
    first = ["task", "job_id", *(key for table in tables for key in table.keys)]
    of_front = ["on_front", "dominated_by", "dominated_in", "run_id", "output_dir"]
    last = [*ACCURACIES.keys.split(), "is_baseline", "note", *of_front]
    middle = sorted({name for line in lines for name in line} - set(first) - set(last))
    if not any(table.baseline for table in tables):
        last = of_front
    names = list(dict.fromkeys([*first, *middle, *last]))
    writer.writerow(map(in_sheet, names))
    writer.writerows([in_sheet(line.get(name)) for name in names] for line in lines)


def flat_lines(comparison: Comparison) -> list[dict[str, Any]]:
    """Return each row of the tables and of the pooled ones as one flat dictionary."""
    lines: list[dict[str, Any]] = []
    for table in comparison.tables:
        for row in table.rows:
            line = core_record(table, row)
            config, metrics = line.pop("config"), line.pop("metrics")
            effect = {
                key: value
                for kind in DIFFERENCES
                for key, value in (line.pop(kind.record_key, None) or {}).items()
            }
            del line["standing"]
            effect |= flat_ends(effect.pop("without_limit", {}))
            line["dominated_in"] = " ".join(line["dominated_in"])
            ratios = {
                f"{name}/{value['measure']}": value.get(name)
                for value in line.pop(REPEATS.record_key)
                for name in RATIO
            }
            added = {
                key: value for section in every_section() for key, value in section.sheet(table, row).items()
            }
            lines.append({**line, **config, **metrics, **added, **ratios, **effect})
    for section in every_section():
        if isinstance(section, FurtherLines):
            lines += section.lines(comparison)
    return lines


FORMATS = {"table": _rich, "markdown": _markdown, "json": _json, "csv": _csv}


def save(comparison: Comparison, folder: Path, reader: Reader, options: dict[str, str]) -> list[str]:
    """Write the files and return their names."""
    tables = comparison.tables
    with Progress(None, "drawing"):
        parts = [(table, pictures.draw(table) + _figures(table)) for table in tables]
        below = {
            id(table): "".join(
                section.page(table, reader) for section in every_section() if isinstance(section, OnPages)
            )
            for table in tables
        }
    names: list[str] = []

    def path(name: str) -> Path:
        names.append(name)
        return folder / name

    try:
        folder.mkdir(parents=True, exist_ok=True)
        page: list[Part] = []
        for table, figures in parts:
            of_jobs = [
                job_picture
                for section in every_section()
                if isinstance(section, PicturesOfJobs)
                for job_picture in section.pictures_of_jobs(table, reader)
            ]
            page.append((table, [*figures, *of_jobs], below[id(table)]))
        scored = [table for table in tables if table.scored]
        with path("comparison.html").open("w", encoding="utf-8") as out:
            write_page(comparison, page, options, out, SAMPLES_PAGE if scored else "")
        if scored:
            with path(SAMPLES_PAGE).open("w", encoding="utf-8") as out:
                write_samples_page(scored, reader, out)
        for name, write in (("md", _markdown), ("csv", _csv), ("json", _json)):
            with path(f"comparison.{name}").open("w", encoding="utf-8", newline="") as out:
                write(comparison, out)
        several = sum(bool(figures) for _, figures in parts) > 1
        for figure in (figure for part in further_parts(comparison) for figure in part.figures):
            path(f"{figure.name}.png").write_bytes(figure.png())
            path(f"{figure.name}.svg").write_text(figure.svg(), encoding="utf-8")
        for table, figures in parts:
            for figure in figures:
                stem = f"{figure.name}_{table.task}" if several else figure.name
                path(f"{stem}.png").write_bytes(figure.png())
                path(f"{stem}.svg").write_text(figure.svg(), encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error, "--save") from error
    return names


def _below_tables() -> list[BelowTables]:
    return [section for section in every_section() if isinstance(section, BelowTables)]


def _figures(table: Table) -> list[Picture]:
    return [figure for section in every_section() for figure in section.figures(table)]
