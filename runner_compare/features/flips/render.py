"""The flips of two runs on a terminal, in Markdown and on a page."""

from __future__ import annotations

from typing import TextIO

from runner_base import plain
from runner_base.console import console, rich_table
from runner_compare.features.flips.compute import Flips, FlipsOfTable
from runner_compare.model.data import Table
from runner_compare.render.escaping import in_markdown
from runner_compare.render.html import escape
from runner_compare.render.labels import sides, versus


def verdict(side: dict[str, str]) -> str:
    """Return the outcome of one side of a flip: `wrong: 12`, `no answer: –`."""
    return f"{side['verdict'].replace('_', ' ')}: {side['answer']}"


def flips_names(flips: Flips, table: Table) -> tuple[str, str]:
    """Return the names of the run and its baseline."""
    return sides(table.row(flips.job_id), table.keys)[:2]


def flips_headline(flips: Flips, table: Table) -> str:
    """Return the headline of a list of flips, with the counts of all four outcomes."""
    cut = len(flips.questions) < flips.won + flips.lost
    return (
        f"{versus(table.row(flips.job_id), table.keys)}: {flips.lost} lost, {flips.won} won, "
        f"{flips.both_right} right in both, {flips.both_wrong} wrong in both"
        f"{f' (the first {len(flips.questions)} flips)' if cut else ''}"
    )


def print_flips(table: Table, out: TextIO) -> None:
    """Print each question with both answers side by side, the baseline's on the left."""
    from rich.text import Text

    def styled(*parts: str | tuple[str, str]) -> Text:
        return Text.assemble(
            *((plain(part[0]), part[1]) if isinstance(part, tuple) else plain(part) for part in parts)
        )

    terminal = console(out, width_elsewhere=120)
    for flips in table.of(FlipsOfTable).pairs:
        own_name, base_name = flips_names(flips, table)
        terminal.print(flips_headline(flips, table), style="bold")
        for flip in flips.questions:
            mark, style = ("won", "green") if flip.won else ("lost", "red")
            gold = (f"gold {flip.gold}", "bold")
            terminal.print(
                styled("\n", (mark, style), (f" #{flip.index} ", "bold"), f"{flip.question}  ", gold)
            )
            grid = rich_table("SIMPLE", show_edge=False, padding=(0, 1, 0, 0), expand=True, header_style="")
            for name, side in ((base_name, flip.theirs), (own_name, flip.ours)):
                grid.add_column(styled((name, "bold"), f"  {verdict(side)}"), ratio=1, overflow="fold")
            grid.add_row(flip.theirs["text"], flip.ours["text"])
            terminal.print(grid)
        terminal.print()


def write_markdown(table: Table, out: TextIO) -> None:
    """Write each flip with both answers below each other."""
    for flips in table.of(FlipsOfTable).pairs:
        out.write(f"#### {in_markdown(flips_headline(flips, table))}\n\n")
        for flip in flips.questions:
            mark, index = "won" if flip.won else "lost", in_markdown(str(flip.index))
            question = f"{in_markdown(flip.question)} Gold: {in_markdown(flip.gold)}"
            out.write(f"- **{mark}, question {index}:** {question}\n")
            for name, side in zip(flips_names(flips, table), (flip.ours, flip.theirs), strict=True):
                out.write(
                    f"  - {in_markdown(name)}: {in_markdown(verdict(side))}; says: {in_markdown(side['text'])}\n"
                )
        out.write("\n")


def write_page_part(flips: Flips, table: Table, is_open: bool, out: TextIO) -> None:
    """Write the flips of one pair of runs as HTML."""
    open_word = " open" if is_open else ""
    out.write(f"<details{open_word}><summary>Flips: {escape(flips_headline(flips, table))}</summary>\n")
    own_name, base_name = flips_names(flips, table)
    for flip in flips.questions:
        mark, style = ("won", "better") if flip.won else ("lost", "worse")
        out.write(
            f'<div class="flip"><p><b class="{style}">{mark}</b> <b>#{escape(flip.index)}</b> {escape(flip.question)} '
            f'<b>gold {escape(flip.gold)}</b></p>\n<div class="sides">'
        )
        for name, side in ((base_name, flip.theirs), (own_name, flip.ours)):
            heading = f"{escape(name)} · <b>{escape(verdict(side))}</b>"
            out.write(f"<div>{heading}<pre>{escape(side['text'])}</pre></div>")
        out.write("</div></div>\n")
    out.write("</details>\n")
