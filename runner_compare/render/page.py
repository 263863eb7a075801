"""Render the comparison as one HTML file without scripts or external files, in light or dark mode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from runner_base import Picture
from runner_compare.model.comparison import Comparison, ReportPart, css_class
from runner_compare.model.data import Table, key_label
from runner_compare.render.html import escape_html, write_html_table
from runner_compare.render.parts import build_table_report_part, section_parts
from runner_compare.render.pictures import JobPicture
from runner_compare.statistics import Finding

STYLE = Path(__file__).with_name("page.css")

# with what sections show below the pictures
PagePart = tuple[Table, Sequence[Picture | JobPicture], str]


def write_comparison_html_page(
    comparison: Comparison,
    parts: list[PagePart],
    options: dict[str, str],
    out: TextIO,
    samples_page_name: str = "",
) -> None:
    """Write the HTML page, with a link to the samples page if there is one."""
    title = f"Comparison: {', '.join(table.task for table, *_ in parts)}"
    out.write(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape_html(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<h1>Which differences are real</h1>\n"
    )
    settings = (f"{escape_html(name)} <b>{escape_html(value)}</b>" for name, value in options.items())
    out.write(f'<p class="asked">{" · ".join(settings)}</p>\n')
    if samples_page_name:
        out.write(f'<p><a href="{samples_page_name}">Every question and every answer, with filters</a></p>\n')
    # one verdict over several tables comes before those that it is made of
    for part in section_parts(comparison):
        _write_report_part(part, part.figures, out)
    for table, figures, below in parts:
        _write_report_part(build_table_report_part(table), figures, out, below)
    out.write("</body>\n</html>\n")


def _write_report_part(
    part: ReportPart, figures: Sequence[Picture | JobPicture], out: TextIO, html_below: str = ""
) -> None:
    runs = f" <small>{part.runs}</small>" if part.runs else ""
    out.write(f"<section>\n<h2>{escape_html(part.title)}{runs}</h2>\n")
    if part.conclusion:
        out.write(f'<p class="conclusion"><b>{escape_html(part.conclusion)}</b></p>\n')
    for grid in part.grids:
        if grid.title:
            out.write(f"<p>{escape_html(grid.title)}</p>\n")
        write_html_table(grid.columns, grid.classes or [""] * len(grid.columns[0].cells), out)
    if part.failed:
        items = "".join(f'<li class="worse">{escape_html(failure)}</li>\n' for failure in part.failed)
        out.write(f'<ul class="found">\n{items}</ul>\n')
    if part.sentences:
        items = "".join(_render_sentence_as_list_item(*said) for said in part.sentences)
        out.write(f'<ul class="found">\n{items}</ul>\n')
    if part.legend:
        out.write(f'<p class="legend">{escape_html(part.legend)}</p>\n')
    for figure in figures:
        if isinstance(figure, Picture):
            out.write(
                f"<figure>\n{figure.to_inline_svg()}\n<figcaption>{escape_html(figure.title)}</figcaption>\n</figure>\n"
            )
    _write_job_pictures([figure for figure in figures if isinstance(figure, JobPicture)], out)
    out.write(html_below)
    if part.table:
        _write_shared_config(part.table.common, part.runs, out)
    out.write("</section>\n")


def _render_sentence_as_list_item(sentence: str, finding: Finding | None) -> str:
    sentence = escape_html(sentence)
    if finding:
        sentence = re.sub(rf": {finding}(?=[;( ])", f": <b>{finding}</b>", sentence, count=1)
    coloured = f' class="{name}"' if (name := css_class(finding)) else ""
    return f"<li{coloured}>{sentence}</li>\n"


def _write_shared_config(common: dict[str, str], runs: str, out: TextIO) -> None:
    pairs = "".join(
        f"<dt>{escape_html(key_label(key))}</dt><dd>{escape_html(value)}</dd>"
        for key, value in common.items()
    )
    if pairs:
        out.write(f"<details><summary>What all {runs} share</summary><dl>{pairs}</dl></details>\n")


def _write_job_pictures(figures: list[JobPicture], out: TextIO) -> None:
    if not figures:
        return
    out.write('<div class="drawn">\n')
    for figure in figures:
        names = "".join(f"<li>{escape_html(name)}</li>" for name in figure.names)
        out.write(f"<details><summary>{figure.to_html_image_tag()}<ul>{names}</ul></summary></details>\n")
    out.write("</div>\n")
