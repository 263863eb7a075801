"""The outputs: a table for people, Markdown, CSV or JSON on stdout; all of them, a page and pictures in a folder."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from runner_base import Column, Progress, cannot_write, plain
from runner_base.console import console, rich_table
from runner_base.printed_tables import print_fitted
from runner_base.tables import NO_WIDTH, say_item, say_lines
from runner_compare import pictures
from runner_compare.budget_pictures import budget_pictures
from runner_compare.budgets import equal_tokens_record
from runner_compare.columns import summary
from runner_compare.cut_offs import flat_ends
from runner_compare.data import Flips, Table
from runner_compare.divergence_picture import divergence_pictures
from runner_compare.files_picture import draw_files
from runner_compare.files_table import file_columns, file_records
from runner_compare.foreign_texts import in_markdown, in_sheet
from runner_compare.forest import forest
from runner_compare.metrics import ACCURACY
from runner_compare.page import Part, write_page
from runner_compare.pairing import find_flips
from runner_compare.quantities import ACCURACIES, DIFFERENCES, REPEATS
from runner_compare.reader import Reader
from runner_compare.row_records import effect_records, pooled_record, row_record
from runner_compare.samples_page import write_samples_page
from runner_compare.section import added_sections
from runner_compare.sections import Comparison, sections
from runner_compare.token_tables import worst_of
from runner_compare.wording import flips_headline, flips_names, verdict

FLIPS_A_PAIR, PAIRS = 50, 20  # the most that the page shows: lost ones, won ones, and pairs of runs
COSTS = ("tokens", "saved", "thinking", "right_answer_costs")  # of a row's record, each a line of its own in a CSV
SAMPLES_PAGE = "samples.html"
RATIO = ("ratio", "ratio_low", "ratio_high", "runs", "p_holm", "finding", "verdict")


def _rich(it: Comparison, out: TextIO) -> None:
    from rich.text import Text

    terminal = console(out, width_elsewhere=NO_WIDTH)
    for section in sections(it):
        table = section.table
        if section.is_headed:
            runs = f": {section.runs}" if section.runs else ""
            say_lines(terminal, Text.assemble((plain(section.title), "bold"), runs))
        if section.conclusion:
            say_lines(terminal, section.conclusion, style="bold")
        for grid in section.grids:
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
        for sentence, _ in section.sentences:
            say_item(terminal, sentence)
        legend = summary(table, it.explain) if table else section.legend
        if legend or table:
            say_lines(terminal, f"{legend}\n" if legend else "", style="dim")
        if table:
            _rich_flips(table, out)


def _rich_flips(table: Table, out: TextIO) -> None:
    """Print each question with both answers side by side, the baseline's on the left."""
    from rich.text import Text

    def styled(*parts: str | tuple[str, str]) -> Text:
        return Text.assemble(*((plain(it[0]), it[1]) if isinstance(it, tuple) else plain(it) for it in parts))

    terminal = console(out, width_elsewhere=120)
    for flips in table.flips:
        ours, theirs = flips_names(flips, table)
        terminal.print(flips_headline(flips, table), style="bold")
        for flip in flips.questions:
            mark, style = ("won", "green") if flip.won else ("lost", "red")
            gold = (f"gold {flip.gold}", "bold")
            terminal.print(styled("\n", (mark, style), (f" #{flip.index} ", "bold"), f"{flip.question}  ", gold))
            grid = rich_table("SIMPLE", show_edge=False, padding=(0, 1, 0, 0), expand=True, header_style="")
            for name, side in ((theirs, flip.theirs), (ours, flip.ours)):
                grid.add_column(styled((name, "bold"), f"  {verdict(side)}"), ratio=1, overflow="fold")
            grid.add_row(flip.theirs["text"], flip.ours["text"])
            terminal.print(grid)
        terminal.print()


def _markdown(it: Comparison, out: TextIO) -> None:
    """Write the tables as Markdown."""
    for section in sections(it):
        out.write(f"### {in_markdown(section.title)}\n\n")
        if section.conclusion:
            out.write(f"**{in_markdown(section.conclusion)}**\n\n")
        for grid in section.grids:
            if grid.title:
                out.write(f"{in_markdown(grid.title)}:\n\n")
            _markdown_grid(grid.columns, out)
        out.writelines(f"- {in_markdown(sentence)}\n" for sentence, _ in section.sentences)
        out.writelines(f"- {in_markdown(sentence)}\n" for sentence in section.failed)
        if section.legend:
            out.write(f"\n{in_markdown(section.legend)}\n\n")
        if section.table:
            _markdown_flips(section.table, out)


def _markdown_flips(table: Table, out: TextIO) -> None:
    for flips in table.flips:
        out.write(f"#### {in_markdown(flips_headline(flips, table))}\n\n")
        for flip in flips.questions:
            mark, index = "won" if flip.won else "lost", in_markdown(str(flip.index))
            question = f"{in_markdown(flip.question)} Gold: {in_markdown(flip.gold)}"
            out.write(f"- **{mark}, question {index}:** {question}\n")
            for name, side in zip(flips_names(flips, table), (flip.ours, flip.theirs), strict=True):
                out.write(f"  - {in_markdown(name)}: {in_markdown(verdict(side))}; says: {in_markdown(side['text'])}\n")
        out.write("\n")


def _markdown_grid(columns_shown: list[Column], out: TextIO) -> None:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(in_markdown(cell).replace("|", "\\|") for cell in cells) + " |\n"

    out.write(line([column.head for column in columns_shown]))
    out.write(line(["---:" if column.is_number else "---" for column in columns_shown]))
    out.writelines(line(list(cells)) for cells in zip(*(column.cells for column in columns_shown), strict=True))
    out.write("\n")


def _json(comparison: Comparison, out: TextIO) -> None:
    """Write everything as JSON."""
    tables = comparison.tables
    content = [
        {
            "task": table.task,
            "baseline": table.baseline,
            "conclusion": table.conclusion,
            "differing_keys": table.keys,
            "pareto_axes": [ACCURACY[0], *table.axes] if table.axes else [],
            "pareto_noise": table.noise,
            "rows": [row_record(table, row) for row in table.rows],
            "sentences": table.sentences,
            **({"flips": [asdict(it) for it in table.flips]} if table.flips else {}),
            **({"equal_tokens": [equal_tokens_record(it) for it in table.equal_tokens]} if table.equal_tokens else {}),
            **{key: value for section in added_sections() for key, value in section.record(table).items()},
        }
        for table in tables
    ]
    whole: dict[str, Any] = {
        "tables": content,
        "requirements": [asdict(it) for table in tables for it in table.requirements],
    }
    if comparison.files is not None:
        whole["files"] = file_records(comparison.files)
    if comparison.pooled:
        whole["pooled"] = [pooled_record(table) for table in comparison.pooled]
    text = json.dumps(whole, indent=2, ensure_ascii=False)
    out.write(re.sub(r"[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def _csv(comparison: Comparison, out: TextIO) -> None:
    """Write one sheet for all tables: the columns of every task, empty if a run has no such number."""
    tables = comparison.tables
    if (files := comparison.files) is not None:
        columns_of_files = file_columns(files)
        writer_of_files = csv.writer(out, lineterminator="\n")
        writer_of_files.writerow([in_sheet(" ".join(it.head.split())) for it in columns_of_files])
        writer_of_files.writerows(
            map(in_sheet, line) for line in zip(*(it.cells for it in columns_of_files), strict=True)
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
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(in_sheet, names))
    writer.writerows([in_sheet(line.get(name)) for name in names] for line in lines)


def flat_lines(comparison: Comparison) -> list[dict[str, Any]]:
    """Return each row of the tables and of the pooled ones as one flat dictionary."""
    lines: list[dict[str, Any]] = []
    for table in comparison.tables:
        for row in table.rows:
            line = row_record(table, row)
            config, metrics = line.pop("config"), line.pop("metrics")
            effect = {
                key: value for kind in DIFFERENCES for key, value in (line.pop(kind.record_key, None) or {}).items()
            }
            del line["standing"]
            line.pop("seeds", None)
            costs = {f"{name}_{key}": it for name in COSTS for key, it in line.pop(name, {}).items()}
            effect |= flat_ends(effect.pop("without_limit", {}))
            plan = line.pop("plan") or {}
            line |= {f"plan_{key}": value for key, value in plan.items()}
            line["dominated_in"] = " ".join(line["dominated_in"])
            ratios = {
                f"{name}/{value['measure']}": value.get(name)
                for value in line.pop(REPEATS.record_key)
                for name in RATIO
            }
            lines.append({**line, **config, **metrics, **costs, **ratios, **effect})
    for of_pooled in comparison.pooled:
        for row in of_pooled.rows:
            effects = [value for value in effect_records(row).values() if isinstance(value, dict)]
            ends = flat_ends(effects[0].pop("without_limit", {})) if effects else {}
            sets = {"pooled_over": "; ".join(of_pooled.sets), "weights": of_pooled.weights.value, "note": row.note}
            lines.append({"task": "pooled", **row.config, **sets, **(effects[0] if effects else {}), **ends})
    return lines


FORMATS = {"table": _rich, "markdown": _markdown, "json": _json, "csv": _csv}


def save(comparison: Comparison, folder: Path, reader: Reader, options: dict[str, str]) -> list[str]:
    """Write the files and return their names."""
    tables, files = comparison.tables, comparison.files
    with Progress(None, "drawing"):
        drawn_of = [[*pictures.draw(table), *budget_pictures(table), *divergence_pictures(table)] for table in tables]
        parts = [
            (table, figures, table.flips or flips_of(table, reader))
            for table, figures in zip(tables, drawn_of, strict=True)
        ]
    names: list[str] = []

    def path(name: str) -> Path:
        names.append(name)
        return folder / name

    try:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = [(section, table, section.pictures(table)) for section in added_sections() for table in tables]
        page: list[Part] = []
        for table, figures, flips in parts:
            of_sections = [picture for _, of_table, some in drawn if of_table is table for picture in some]
            of_jobs = [it for section in added_sections() for it in section.pictures_of_jobs(table, reader)]
            page.append((table, [*figures, *of_sections, *of_jobs], flips, worst_of(table, reader)))
        scored = [table for table in tables if table.scored]
        with path("comparison.html").open("w", encoding="utf-8") as out:
            write_page(comparison, page, options, out, SAMPLES_PAGE if scored else "")
        if scored:
            with path(SAMPLES_PAGE).open("w", encoding="utf-8") as out:
                write_samples_page(scored, reader, out)
        for name, write in (("md", _markdown), ("csv", _csv), ("json", _json)):
            with path(f"comparison.{name}").open("w", encoding="utf-8", newline="") as out:
                write(comparison, out)
        several = sum(bool(figures) for _, figures, _ in parts) > 1
        for figure in draw_files(files) if files is not None else []:
            path(f"{figure.name}.png").write_bytes(figure.png())
            path(f"{figure.name}.svg").write_text(figure.svg(), encoding="utf-8")
        for section in added_sections():
            of_section = [picture for added, _, some in drawn if added is section for picture in some]
            for number, picture in enumerate(of_section, 1):
                path(f"{section.stem}_{number}.svg").write_bytes(picture.file)
        for table, figures, _ in parts:
            for figure in figures:
                stem = f"{figure.name}_{table.task}" if several else figure.name
                path(f"{stem}.png").write_bytes(figure.png())
                path(f"{stem}.svg").write_text(figure.svg(), encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error, "--save") from error
    return names


def flips_of(table: Table, reader: Reader) -> list[Flips]:
    """Return the flips that a page shows under a table: those of the first paired comparisons."""
    effects = [(row, row.effect.counts) for row in table.rows if row.effect]
    flipped = [row for row, counts in effects if counts.get("wins") or counts.get("losses")]
    flipped = [row for row in flipped if not row.run.over_seeds][:PAIRS]  # whose answers are those of several jobs
    return [find_flips(row.run, row.baseline.run, reader, FLIPS_A_PAIR) for row in flipped if row.baseline]
