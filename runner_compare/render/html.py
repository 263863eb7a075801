"""Text and tables of a page, as HTML."""

from __future__ import annotations

import html
from typing import TextIO

from runner_base import Column, plain

MARKS = {"front": "●", "dominated": "○"}


def escape(text: object) -> str:
    """Escape any data as text of a page."""
    return html.escape(plain(text))


def write_table(columns_shown: list[Column], classes: list[str], out: TextIO) -> None:
    """Write a table that scrolls on a narrow screen while its first column stays."""
    out.write('<div class="wide">\n<table>\n<thead><tr>')
    out.writelines(
        f"<th{(' class=n' if column.is_number else '')}>{escape(column.head)}</th>"
        for column in columns_shown
    )
    out.write("</tr></thead>\n<tbody>\n")
    for number, class_name in enumerate(classes):
        out.write(f'<tr class="{class_name}">')
        for index, column in enumerate(columns_shown):
            cell = column.cells[number]
            tag = "td" if index else 'th scope="row"'
            mark = f"{MARKS[cell]} " if cell in MARKS else ""
            out.write(f"<{tag}{(' class=n' if column.is_number else '')}>{mark}{escape(cell)}</{tag[:2]}>")
        out.write("</tr>\n")
    out.write("</tbody>\n</table>\n</div>\n")
