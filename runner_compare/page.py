"""The comparison as one HTML file: nothing is fetched, no script, light and dark, readable on a phone."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from runner_base import Column, Picture, plain
from runner_compare.data import Flips, Table, label
from runner_compare.files_picture import draw_files
from runner_compare.pictures import JobPicture
from runner_compare.sections import Comparison, Section, class_of, of_files, of_pooled, of_table
from runner_compare.statistics.effects import Finding
from runner_compare.token_tables import WorstTokens
from runner_compare.wording import flips_headline, flips_names, verdict

STYLE = Path(__file__).with_name("page.css")
WORST_HEADS = ("KL, nats", "text", "reference: p, first choice", "here: p, first choice", "sample")
MARKS = {"front": "●", "dominated": "○"}

Part = tuple[Table, Sequence[Picture | JobPicture], list[Flips], list[WorstTokens]]


def write_page(
    comparison: Comparison, parts: list[Part], options: dict[str, str], out: TextIO, samples: str = ""
) -> None:
    """Write the whole page, with a link to the page of all samples if there is one."""
    title = f"Comparison: {', '.join(table.task for table, *_ in parts)}"
    out.write(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<h1>Which differences are real</h1>\n"
    )
    words = (f"{escape(name)} <b>{escape(value)}</b>" for name, value in options.items())
    out.write(f'<p class="asked">{" · ".join(words)}</p>\n')
    if samples:
        out.write(f'<p><a href="{samples}">Every question and every answer, with filters</a></p>\n')
    if comparison.files is not None:
        _section(of_files(comparison.files), draw_files(comparison.files), [], out)
    for pooled in comparison.pooled:  # the one verdict comes before the tables that it is made of
        _section(of_pooled(pooled), [], [], out)
    for table, figures, flips, worst in parts:
        _section(of_table(table), figures, flips, out, worst)
    out.write("</body>\n</html>\n")


def _section(
    section: Section,
    figures: Sequence[Picture | JobPicture],
    flips: list[Flips],
    out: TextIO,
    worst: Sequence[WorstTokens] = (),
) -> None:
    runs = f" <small>{section.runs}</small>" if section.runs else ""
    out.write(f"<section>\n<h2>{escape(section.title)}{runs}</h2>\n")
    if section.conclusion:
        out.write(f'<p class="conclusion"><b>{escape(section.conclusion)}</b></p>\n')
    for grid in section.grids:
        if grid.title:
            out.write(f"<p>{escape(grid.title)}</p>\n")
        write_table(grid.columns, grid.classes or [""] * len(grid.columns[0].cells), out)
    if section.failed:
        items = "".join(f'<li class="worse">{escape(words)}</li>\n' for words in section.failed)
        out.write(f'<ul class="found">\n{items}</ul>\n')
    if section.sentences:
        items = "".join(_item(*said) for said in section.sentences)
        out.write(f'<ul class="found">\n{items}</ul>\n')
    if section.legend:
        out.write(f'<p class="legend">{escape(section.legend)}</p>\n')
    for figure in figures:
        if isinstance(figure, Picture):
            out.write(f"<figure>\n{figure.inline()}\n<figcaption>{escape(figure.title)}</figcaption>\n</figure>\n")
    _job_pictures([figure for figure in figures if isinstance(figure, JobPicture)], out)
    for of_run in worst:
        _worst_tokens(of_run, out)
    if section.table:
        for flips_of_pair in flips:
            _flips(flips_of_pair, section.table, out)
        _shared(section.table.common, section.runs, out)
    out.write("</section>\n")


def _item(words: str, finding: Finding | None) -> str:
    """Return a finding as an item of a list."""
    words = escape(words)
    if finding:
        words = re.sub(rf": {finding}(?=[;( ])", f": <b>{finding}</b>", words, count=1)
    coloured = f' class="{name}"' if (name := class_of(finding)) else ""
    return f"<li{coloured}>{words}</li>\n"


def _shared(common: dict[str, str], runs: str, out: TextIO) -> None:
    pairs = "".join(f"<dt>{escape(label(key))}</dt><dd>{escape(value)}</dd>" for key, value in common.items())
    if pairs:
        out.write(f"<details><summary>What all {runs} share</summary><dl>{pairs}</dl></details>\n")


def escape(text: object) -> str:
    """Escape any data as text of a page."""
    return html.escape(plain(text))


def write_table(columns_shown: list[Column], classes: list[str], out: TextIO) -> None:
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


def _worst_tokens(worst: WorstTokens, out: TextIO) -> None:
    """Write a run's tokens with the largest divergence, each marked in its text."""
    words = f"{len(worst.tokens)} worst tokens: {worst.name}"
    out.write(f'<details><summary>{escape(words)}</summary>\n<div class="wide">\n<table>\n<thead><tr>')
    out.writelines(f"<th>{escape(head)}</th>" for head in WORST_HEADS)
    out.write("</tr></thead>\n<tbody>\n")
    for it in worst.tokens:
        text = f'{escape(it["before"])}<b class="worse">{escape(it["token"])}</b>{escape(it["after"])}'
        out.write(f'<tr><th scope="row" class=n>{escape(it["nats"])}</th><td class="context">{text}</td>')
        out.writelines(f"<td>{escape(it[key])}</td>" for key in ("reference", "here", "sample"))
        out.write("</tr>\n")
    out.write("</tbody>\n</table>\n</div>\n</details>\n")


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
