"""The comparison as one HTML file: nothing is fetched, no script, light and dark, readable on a phone."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from runner.compare.columns import columns, ratio_columns, summary
from runner.compare.data import Flips, Table, TableRow, label
from runner.compare.files import FileTable
from runner.compare.files_picture import draw_files
from runner.compare.files_table import file_columns, file_legend, file_sentences
from runner.compare.gates import failures
from runner.compare.pictures import JobPicture
from runner.compare.planning import plan_columns
from runner.compare.pooled import PooledTable, pooled_columns
from runner.compare.survival import seed_tables
from runner.compare.wording import flips_headline, flips_names, verdict
from runner.core.console import plain
from runner.core.drawing import Picture
from runner.core.effects import Finding
from runner.core.tables import Column

STYLE = Path(__file__).with_name("page.css")
MARKS = {"front": "●", "dominated": "○"}

Part = tuple[Table, Sequence[Picture | JobPicture], list[Flips]]


def write_page(
    parts: list[Part],
    options: dict[str, str],
    out: TextIO,
    samples: str = "",
    pooled: Sequence[PooledTable] = (),
    files: FileTable | None = None,
) -> None:
    """Write the whole page, with a link to the page of all samples if there is one."""
    title = f"Comparison: {', '.join(table.task for table, _, _ in parts)}"
    out.write(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<h1>Which differences are real</h1>\n"
    )
    words = (f"{escape(name)} <b>{escape(value)}</b>" for name, value in options.items())
    out.write(f'<p class="asked">{" · ".join(words)}</p>\n')
    if samples:
        out.write(f'<p><a href="{samples}">Every question and every answer, with filters</a></p>\n')
    if files is not None:
        _files_section(files, out)
    for of_pooled in pooled:  # the one verdict comes before the tables that it is made of
        _pooled_section(of_pooled, out)
    for part in parts:
        _section(*part, out)
    out.write("</body>\n</html>\n")


def _section(table: Table, figures: Sequence[Picture | JobPicture], flips: list[Flips], out: TextIO) -> None:
    count = len(table.rows)
    out.write(f"<section>\n<h2>{escape(table.task)} <small>{count} run{'s' * (count != 1)}</small></h2>\n")
    if table.conclusion:
        out.write(f'<p class="conclusion"><b>{escape(table.conclusion)}</b></p>\n')
    _table(columns(table), [_row_class(row) for row in table.rows], out)
    if table.has_ratios:
        _table(ratio_columns(table), [_finding_class(it.finding) for row in table.rows for it in row.ratios], out)
    for title, of_seeds in seed_tables(table).items():
        out.write(f"<p>{escape(title)}</p>\n")
        _table(of_seeds, [""] * len(of_seeds[0].cells), out)
    if any(row.plan for row in table.rows):
        out.write(f"<p>{escape(table.plan_title)}</p>\n")
        shown = plan_columns(table)
        _table(shown, [""] * len(shown[0].cells), out)
    if failed := failures([table]):
        items = "".join(f'<li class="worse">{escape(words)}</li>\n' for words in failed)
        out.write(f'<ul class="found">\n{items}</ul>\n')
    if table.sentences:
        out.write('<ul class="found">\n')
        _sentences(table.rows, out)
        out.writelines(f"<li>{escape(words)}</li>\n" for words in table.front_sentences)
        out.write("</ul>\n")
    if legend := summary(table):
        out.write(f'<p class="legend">{escape(legend)}</p>\n')
    for figure in figures:
        if isinstance(figure, Picture):
            out.write(f"<figure>\n{figure.inline()}\n<figcaption>{escape(figure.title)}</figcaption>\n</figure>\n")
    _job_pictures([figure for figure in figures if isinstance(figure, JobPicture)], out)
    for flips_of_pair in flips:
        _flips(flips_of_pair, table, out)
    if table.common:
        pairs = "".join(f"<dt>{escape(label(key))}</dt><dd>{escape(value)}</dd>" for key, value in table.common.items())
        out.write(f"<details><summary>What all {count} runs share</summary><dl>{pairs}</dl></details>\n")
    out.write("</section>\n")


def _sentences(rows: Sequence[TableRow], out: TextIO) -> None:
    """Write the findings of rows as items of a list."""
    for row in rows:
        if row.sentence:
            words, finding = escape(row.sentence), row.effect.finding if row.effect else None
            if finding:
                words = re.sub(rf": {finding}(?=[;( ])", f": <b>{finding}</b>", words, count=1)
            out.write(f'<li class="{_finding_class(finding)}">{words}</li>\n')
        if row.saving:
            out.write(f"<li>{escape(row.saving.words)}</li>\n")


def _files_section(table: FileTable, out: TextIO) -> None:
    out.write("<section>\n<h2>model files</h2>\n")
    classes = ["baseline" if it.is_reference else "dominated" if it.on_front is False else "" for it in table.files]
    _table(file_columns(table), classes, out)
    items = "".join(f"<li>{escape(words)}</li>\n" for words in file_sentences(table))
    out.write(f'<ul class="found">\n{items}</ul>\n<p class="legend">{escape(file_legend(table))}</p>\n')
    for figure in draw_files(table):
        out.write(f"<figure>\n{figure.inline()}\n<figcaption>{escape(figure.title)}</figcaption>\n</figure>\n")
    out.write("</section>\n")


def _pooled_section(table: PooledTable, out: TextIO) -> None:
    out.write(f"<section>\n<h2>{escape(table.title)}</h2>\n")
    _table(pooled_columns(table), [""] * len(table.rows), out)
    out.write('<ul class="found">\n')
    _sentences(table.rows, out)
    out.write(f'</ul>\n<p class="legend">{escape(table.legend)}</p>\n</section>\n')


def escape(text: object) -> str:
    """Escape any data as text of a page."""
    return html.escape(plain(text))


def _row_class(row: TableRow) -> str:
    return "baseline" if row.is_baseline else "dominated" if row.on_front is False else ""


def _finding_class(finding: Finding | None) -> str:
    return "" if finding in (None, Finding.open) else str(finding)


def _table(columns_shown: list[Column], classes: list[str], out: TextIO) -> None:
    """Write a table that scrolls on a narrow screen while its first column stays."""
    out.write('<div class="wide">\n<table>\n<thead><tr>')
    out.writelines(f"<th{' class=n' * column.is_number}>{escape(column.head)}</th>" for column in columns_shown)
    out.write("</tr></thead>\n<tbody>\n")
    for number, class_name in enumerate(classes):
        out.write(f'<tr class="{class_name}">')
        for place, column in enumerate(columns_shown):
            cell = column.cells[number]
            tag = "td" if place else 'th scope="row"'
            mark = f"{MARKS[cell]} " if cell in MARKS else ""
            out.write(f"<{tag}{' class=n' * column.is_number}>{mark}{escape(cell)}</{tag[:2]}>")
        out.write("</tr>\n")
    out.write("</tbody>\n</table>\n</div>\n")


def _job_pictures(figures: list[JobPicture], out: TextIO) -> None:
    """Write the pictures of jobs side by side and small; each grows when it is opened."""
    if not figures:
        return
    out.write('<div class="drawn">\n')
    for figure in figures:
        names = "".join(f"<li>{escape(name)}</li>" for name in figure.names)
        out.write(f"<details><summary>{figure.inline()}<ul>{names}</ul></summary></details>\n")
    out.write("</div>\n")


def _flips(flips: Flips, table: Table, out: TextIO) -> None:
    open_word = " open" * (len(table.flips) > 0)
    out.write(f"<details{open_word}><summary>Flips: {escape(flips_headline(flips, table))}</summary>\n")
    ours, theirs = flips_names(flips, table)
    for flip in flips.questions:
        mark, style = ("won", "better") if flip.won else ("lost", "worse")
        out.write(
            f'<div class="flip"><p><b class="{style}">{mark}</b> <b>#{escape(flip.index)}</b> {escape(flip.question)} '
            f'<b>gold {escape(flip.gold)}</b></p>\n<div class="sides">'
        )
        for name, side in ((theirs, flip.theirs), (ours, flip.ours)):
            words = f"{escape(name)} · <b>{escape(verdict(side))}</b>"
            out.write(f"<div>{words}<pre>{escape(side['text'])}</pre></div>")
        out.write("</div></div>\n")
    out.write("</details>\n")
