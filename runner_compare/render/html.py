"""Renders text and tables of the HTML page."""

from __future__ import annotations

import html
from typing import TextIO

from runner_base import Column, escape_control_characters

MARKS = {"front": "●", "dominated": "○"}


def escape_html(text: object) -> str:
    return html.escape(escape_control_characters(text))


def write_html_table(columns: list[Column], row_classes: list[str], out: TextIO) -> None:
    """Write an HTML table whose first column stays visible on a narrow screen."""
    out.write('<div class="wide">\n<table>\n<thead><tr>')
    out.writelines(
        f"<th{(' class=n' if column.is_number else '')}>{escape_html(column.head)}</th>" for column in columns
    )
    out.write("</tr></thead>\n<tbody>\n")
    for number, class_name in enumerate(row_classes):
        out.write(f'<tr class="{class_name}">')
        for index, column in enumerate(columns):
            cell = column.cells[number]
            tag = "td" if index else 'th scope="row"'
            mark = f"{MARKS[cell]} " if cell in MARKS else ""
            out.write(
                f"<{tag}{(' class=n' if column.is_number else '')}>{mark}{escape_html(cell)}</{tag[:2]}>"
            )
        out.write("</tr>\n")
    out.write("</tbody>\n</table>\n</div>\n")
