"""Write a comparison to stdout in one format, or to a folder in all formats."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from runner_base import Column, Picture, Progress, convert_write_error, escape_control_characters
from runner_base.console import create_console
from runner_base.printed_tables import print_table_fitted_to_terminal
from runner_base.tables import NO_WIDTH, PAGE_WIDTH, print_list_item, print_wrapped, wrapped_lines
from runner_compare.features.cut_offs.render import flatten_cut_off_answers_record
from runner_compare.features.front.compute import FrontData
from runner_compare.features.front.render import describe_noise_by_pareto_metric
from runner_compare.features.registry import load_comparison_sections
from runner_compare.metrics import ACCURACY
from runner_compare.model.comparison import Comparison, ReportPart, View
from runner_compare.model.data import Table
from runner_compare.reader import Reader
from runner_compare.render import pictures
from runner_compare.render.columns import format_table_legend
from runner_compare.render.conclusion import conclusion_text
from runner_compare.render.escaping import escape_csv_cell, escape_markdown
from runner_compare.render.forest import draw_forest_plot_lines
from runner_compare.render.next_steps import format_next_steps_and_details, join_texts_into_lines
from runner_compare.render.page import PagePart, write_comparison_html_page
from runner_compare.render.parts import (
    build_comparison_report_parts,
    format_table_title_parts,
    section_parts,
    table_sentences,
)
from runner_compare.render.quantities import ACCURACIES, DIFFERENCES, REPEATS
from runner_compare.render.row_records import build_common_row_record, build_row_record
from runner_compare.render.samples_page import write_samples_page
from runner_compare.section import HasCsvLines, HasJobPictures, HasPagePart, HasTableText

if TYPE_CHECKING:
    from rich.console import Console

SAMPLES_PAGE = "samples.html"
RATIO = ("ratio", "ratio_low", "ratio_high", "runs", "p_holm", "finding", "verdict")


def _print_comparison_to_terminal(comparison: Comparison, out: TextIO) -> None:
    view = comparison.view
    terminal = create_console(out, non_terminal_width=NO_WIDTH if view.all_columns else PAGE_WIDTH)
    parts = build_comparison_report_parts(comparison)
    for number, part in enumerate(parts):
        if number:
            terminal.print()
        _print_report_part(part, view, terminal, out)
    tables = [part.table for part in parts if part.table]
    if tables:
        terminal.print()
    for line in format_next_steps_and_details(comparison, tables, terminal.width):
        terminal.print(line, soft_wrap=True)


def _print_report_part(part: ReportPart, view: View, terminal: Console, out: TextIO) -> None:
    from rich.text import Text

    table = part.table
    if part.is_headed:
        words = (
            format_table_title_parts(table) if table else [part.title, *([part.runs] if part.runs else [])]
        )
        for line in join_texts_into_lines(words, terminal.width):
            terminal.print(Text(escape_control_characters(line), "bold"), soft_wrap=True)
    if answer := part.conclusion or part.short_conclusion:
        for line in wrapped_lines(answer, terminal.width):
            terminal.print(Text(line, "bold"), soft_wrap=True)
    is_short = part.short_grids is not None and not view.all_columns
    grids = part.short_grids or [] if is_short else part.grids
    if part.is_headed and grids:
        terminal.print()
    for grid in grids:
        if grid.title:
            terminal.print()
            print_wrapped(terminal, grid.title)
        print_table_fitted_to_terminal(
            terminal,
            grid.columns,
            "--columns all" if is_short else "--format markdown, --save",
            frame="SIMPLE",
            padding=(0, 1, 0, 0),
            header_style="bold",
            show_edge=False,
        )
    for line, style in (
        draw_forest_plot_lines(table.rows, table.keys, terminal.width, out.encoding)
        if table and view.plot
        else []
    ):
        terminal.print(Text(line, style), soft_wrap=True)
    if not view.explain and part.short_sentences is not None:
        sentences = part.short_sentences
    else:
        sentences = [sentence for sentence, _ in part.sentences]
    for sentence in sentences:
        print_list_item(terminal, sentence)
    if view.explain and (legend := format_table_legend(table) if table else part.legend):
        print_wrapped(terminal, legend, style="dim")
    if table:
        for section in _sections_below_tables():
            section.print_terminal(table, out, view.all_columns)


def _write_markdown(comparison: Comparison, out: TextIO) -> None:
    for part in build_comparison_report_parts(comparison):
        out.write(f"### {escape_markdown(part.title)}\n\n")
        if part.conclusion:
            out.write(f"**{escape_markdown(part.conclusion)}**\n\n")
        for grid in part.grids:
            if grid.title:
                out.write(f"{escape_markdown(grid.title)}:\n\n")
            _write_markdown_table(grid.columns, out)
        out.writelines(f"- {escape_markdown(sentence)}\n" for sentence, _ in part.sentences)
        out.writelines(f"- {escape_markdown(sentence)}\n" for sentence in part.failed)
        if part.legend:
            out.write(f"\n{escape_markdown(part.legend)}\n\n")
        if part.table:
            out.writelines(section.render_markdown(part.table) for section in _sections_below_tables())


def _write_markdown_table(columns: list[Column], out: TextIO) -> None:
    def format_line(cells: list[str]) -> str:
        return "| " + " | ".join(escape_markdown(cell).replace("|", "\\|") for cell in cells) + " |\n"

    out.write(format_line([column.head for column in columns]))
    out.write(format_line(["---:" if column.is_number else "---" for column in columns]))
    out.writelines(
        format_line(list(cells)) for cells in zip(*(column.cells for column in columns), strict=True)
    )
    out.write("\n")


def _write_json(comparison: Comparison, out: TextIO) -> None:
    tables = comparison.tables
    content = [
        {
            "task": table.task,
            "baseline": table.baseline,
            "conclusion": conclusion_text(table.candidate_rows),
            "differing_keys": table.keys,
            "pareto_axes": [ACCURACY[0], *table.get_section_data(FrontData).axes]
            if table.get_section_data(FrontData).axes
            else [],
            "pareto_noise": describe_noise_by_pareto_metric(table.get_section_data(FrontData)),
            "rows": [build_row_record(table, row) for row in table.rows],
            "sentences": table_sentences(table),
            **{
                key: value
                for section in load_comparison_sections()
                for key, value in section.table_record(table).items()
            },
        }
        for table in tables
    ]
    whole: dict[str, Any] = {"tables": content}
    for section in load_comparison_sections():
        whole |= section.comparison_record(comparison)
    text = json.dumps(whole, indent=2, ensure_ascii=False)
    out.write(re.sub(r"[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def _write_csv(comparison: Comparison, out: TextIO) -> None:
    """Write one CSV sheet for all tables, with the columns of every task. Missing values are empty."""
    tables = comparison.tables
    writer = csv.writer(out, lineterminator="\n")
    if alone := next((part for part in section_parts(comparison) if part.is_alone), None):
        columns = alone.grids[0].columns
        writer.writerow([escape_csv_cell(" ".join(column.head.split())) for column in columns])
        writer.writerows(
            map(escape_csv_cell, line) for line in zip(*(column.cells for column in columns), strict=True)
        )
        return
    lines = build_flat_comparison_records(comparison)
    first = ["task", "job_id", *(key for table in tables for key in table.keys)]
    of_front = ["on_front", "dominated_by", "dominated_in", "run_id", "output_dir"]
    last = [*ACCURACIES.keys.split(), "is_baseline", "note", *of_front]
    middle = sorted({name for line in lines for name in line} - set(first) - set(last))
    if not any(table.baseline for table in tables):
        last = of_front
    names = list(dict.fromkeys([*first, *middle, *last]))
    writer.writerow(map(escape_csv_cell, names))
    writer.writerows([escape_csv_cell(line.get(name)) for name in names] for line in lines)


def build_flat_comparison_records(comparison: Comparison) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for table in comparison.tables:
        for row in table.rows:
            line = build_common_row_record(table, row)
            config, metrics = line.pop("config"), line.pop("metrics")
            effect = {
                key: value
                for kind in DIFFERENCES
                for key, value in (line.pop(kind.record_key, None) or {}).items()
            }
            del line["standing"]
            effect |= flatten_cut_off_answers_record(effect.pop("without_limit", {}))
            line["dominated_in"] = " ".join(line["dominated_in"])
            ratios = {
                f"{name}/{value['measure']}": value.get(name)
                for value in line.pop(REPEATS.record_key)
                for name in RATIO
            }
            added = {
                key: value
                for section in load_comparison_sections()
                for key, value in section.csv_fields(table, row).items()
            }
            lines.append({**line, **config, **metrics, **added, **ratios, **effect})
    for section in load_comparison_sections():
        if isinstance(section, HasCsvLines):
            lines += section.csv_lines(comparison)
    return lines


FORMATS = {
    "table": _print_comparison_to_terminal,
    "markdown": _write_markdown,
    "json": _write_json,
    "csv": _write_csv,
}


def save_comparison(
    comparison: Comparison, folder: Path, reader: Reader, options: dict[str, str]
) -> list[str]:
    tables = comparison.tables
    with Progress(None, "drawing"):
        parts = [
            (table, pictures.create_table_pictures(table) + _section_pictures(table)) for table in tables
        ]
        below = {
            id(table): "".join(
                section.render_html(table, reader)
                for section in load_comparison_sections()
                if isinstance(section, HasPagePart)
            )
            for table in tables
        }
    names: list[str] = []

    def path(name: str) -> Path:
        names.append(name)
        return folder / name

    try:
        folder.mkdir(parents=True, exist_ok=True)
        page: list[PagePart] = []
        for table, figures in parts:
            of_jobs = [
                job_picture
                for section in load_comparison_sections()
                if isinstance(section, HasJobPictures)
                for job_picture in section.job_pictures(table, reader)
            ]
            page.append((table, [*figures, *of_jobs], below[id(table)]))
        scored = [table for table in tables if table.has_accuracies]
        with path("comparison.html").open("w", encoding="utf-8") as out:
            write_comparison_html_page(comparison, page, options, out, SAMPLES_PAGE if scored else "")
        if scored:
            with path(SAMPLES_PAGE).open("w", encoding="utf-8") as out:
                write_samples_page(scored, reader, out)
        for name, write in (("md", _write_markdown), ("csv", _write_csv), ("json", _write_json)):
            with path(f"comparison.{name}").open("w", encoding="utf-8", newline="") as out:
                write(comparison, out)
        several = sum(bool(figures) for _, figures in parts) > 1
        for figure in (figure for part in section_parts(comparison) for figure in part.figures):
            path(f"{figure.name}.png").write_bytes(figure.to_png())
            path(f"{figure.name}.svg").write_text(figure.to_svg(), encoding="utf-8")
        for table, figures in parts:
            for figure in figures:
                stem = f"{figure.name}_{table.task}" if several else figure.name
                path(f"{stem}.png").write_bytes(figure.to_png())
                path(f"{stem}.svg").write_text(figure.to_svg(), encoding="utf-8")
    except OSError as error:
        raise convert_write_error(folder, error, "--save") from error
    return names


def _sections_below_tables() -> list[HasTableText]:
    return [section for section in load_comparison_sections() if isinstance(section, HasTableText)]


def _section_pictures(table: Table) -> list[Picture]:
    return [figure for section in load_comparison_sections() for figure in section.pictures(table)]
