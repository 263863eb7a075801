"""The comparison as one HTML file: nothing is fetched, no script, light and dark, readable on a phone."""

from __future__ import annotations

from html import escape
from typing import TextIO

from runner.compare.data import Finding, Flip, Flips, Row, Table, label
from runner.compare.pictures import Picture
from runner.compare.wording import (
    Column,
    columns,
    flips_headline,
    flips_names,
    ratio_columns,
    sentence,
    summary,
    verdict,
)

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --shade: #f6f8fa; --ink: #1f2328; --muted: #59636e; --line: #d1d9e0;
  --accent: #0969da; --good: #1a7f37; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --shade: #151b23; --ink: #e6edf3; --muted: #9198a1;
  --line: #30363d; --accent: #58a6ff; --good: #3fb950; --bad: #f85149; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h2 small, .asked, .legend, figcaption { color: var(--muted); font-weight: normal; }
.asked { margin: .25rem 0 0; overflow-wrap: anywhere; } .asked b { font-weight: 600; color: var(--ink); }
.legend, figcaption { font-size: .85rem; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .83rem; }
th, td { padding: .35rem .42rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { background: var(--shade); white-space: pre-line; vertical-align: bottom; line-height: 1.25; }
.n { text-align: right; }
tbody th { font-weight: 600; } tr > :first-child { position: sticky; left: 0; background: var(--paper); }
thead tr > :first-child { background: var(--shade); }
tr.baseline > * { background: var(--shade); } tr.dominated > td { color: var(--muted); }
.better, .larger { color: var(--good); } .worse, .smaller { color: var(--bad); }
ul.found { list-style: none; padding: 0; margin: .75rem 0; } ul.found li { margin: .3rem 0; padding-left: .75rem;
  border-left: 3px solid var(--line); overflow-wrap: anywhere; }
ul.found li.better { border-color: var(--good); color: inherit; }
ul.found li.worse { border-color: var(--bad); color: inherit; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { display: block; width: 100%; min-width: 34rem; height: auto; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
summary { padding: .5rem .75rem; cursor: pointer; overflow-wrap: anywhere; }
details > :not(summary) { padding: 0 .75rem .5rem; margin: 0; }
.flip { border-top: 1px solid var(--line); padding: .6rem .75rem; }
.flip p { margin: 0 0 .4rem; overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; }
.sides > div { background: var(--shade); border-radius: 6px; padding: .4rem .6rem; min-width: 0; font-size: .87rem; }
.sides pre { margin: .2rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .8rem/1.45 ui-monospace, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .87rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { padding: 1rem .75rem 2rem; } .sides, dl { grid-template-columns: 1fr; }
  dl dd { margin-bottom: .3rem; } th, td { padding: .35rem .45rem; } }
"""
MARKS = {"front": "●", "dominated": "○"}

Part = tuple[Table, list[Picture], list[Flips]]


def write_page(parts: list[Part], asked: dict[str, str], out: TextIO) -> None:
    """Write the whole page."""
    title = f"Comparison: {', '.join(table.task for table, _, _ in parts)}"
    out.write(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>Which differences are real</h1>\n"
    )
    words = (f"{escape(name)} <b>{escape(value)}</b>" for name, value in asked.items())
    out.write(f'<p class="asked">{" · ".join(words)}</p>\n')
    for part in parts:
        _section(*part, out)
    out.write("</body>\n</html>\n")


def _section(table: Table, figures: list[Picture], flips: list[Flips], out: TextIO) -> None:
    count = len(table.rows)
    out.write(f"<section>\n<h2>{escape(table.task)} <small>{count} run{'s' * (count != 1)}</small></h2>\n")
    _table(columns(table), [_row_class(row) for row in table.rows], out)
    if any(row.ratios for row in table.rows):
        found = [str(it.finding) for row in table.rows for it in row.ratios]
        _table(ratio_columns(table), ["" if finding == Finding.open else finding for finding in found], out)
    if table.sentences:
        by_id = {row.job_id: row for row in table.rows}
        out.write('<ul class="found">\n')
        for row in table.rows:
            text = "" if row.is_baseline else sentence(row, by_id, table.keys)
            if text:
                finding = row.comparison.finding if row.comparison else ""
                words = escape(text).replace(f": {finding} (", f": <b>{finding}</b> (", 1) if finding else escape(text)
                out.write(f'<li class="{finding if finding != Finding.open else ""}">{words}</li>\n')
        out.write("</ul>\n")
    if table.baseline:
        out.write(f'<p class="legend">{escape(summary(table))}</p>\n')
    for figure in figures:
        out.write(f"<figure>\n{figure.inline()}\n<figcaption>{escape(figure.title)}</figcaption>\n</figure>\n")
    for them in flips:
        _flips(them, table, out)
    if table.common:
        pairs = "".join(f"<dt>{escape(label(key))}</dt><dd>{escape(value)}</dd>" for key, value in table.common.items())
        out.write(f"<details><summary>What all {count} runs share</summary><dl>{pairs}</dl></details>\n")
    out.write("</section>\n")


def _row_class(row: Row) -> str:
    return "baseline" if row.is_baseline else "dominated" if row.on_front is False else ""


def _table(found: list[Column], classes: list[str], out: TextIO) -> None:
    """Write a table that scrolls by itself where the screen is narrow, its first column standing."""
    out.write('<div class="wide">\n<table>\n<thead><tr>')
    out.writelines(f"<th{' class=n' * it.is_number}>{escape(it.head)}</th>" for it in found)
    out.write("</tr></thead>\n<tbody>\n")
    for number, class_name in enumerate(classes):
        out.write(f'<tr class="{class_name}">')
        for place, it in enumerate(found):
            cell = it.cells[number]
            tag = "td" if place else 'th scope="row"'
            mark = f"{MARKS[cell]} " if cell in MARKS else ""
            out.write(f"<{tag}{' class=n' * it.is_number}>{mark}{escape(cell)}</{tag[:2]}>")
        out.write("</tr>\n")
    out.write("</tbody>\n</table>\n</div>\n")


def _flips(flips: Flips, table: Table, out: TextIO) -> None:
    open_word = " open" * (len(table.flips) > 0)
    out.write(f"<details{open_word}><summary>Flips: {escape(flips_headline(flips, table))}</summary>\n")
    for flip in flips.questions:
        _flip(flip, flips_names(flips, table), out)
    out.write("</details>\n")


def _flip(flip: Flip, names: tuple[str, str], out: TextIO) -> None:
    ours, theirs = names
    mark, style = ("won", "better") if flip.won else ("lost", "worse")
    out.write(
        f'<div class="flip"><p><b class="{style}">{mark}</b> <b>#{flip.index}</b> {escape(flip.question)} '
        f'<b>gold {escape(flip.gold)}</b></p>\n<div class="sides">'
    )
    for name, side in ((theirs, flip.theirs), (ours, flip.ours)):
        words = f"{escape(name)} · <b>{escape(verdict(side))}</b>"
        out.write(f"<div>{words}<pre>{escape(side['text'])}</pre></div>")
    out.write("</div></div>\n")
