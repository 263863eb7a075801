"""Renders flips (questions that only one of two runs solved) for terminal, Markdown and HTML."""

from __future__ import annotations

from typing import TextIO

from runner_base import escape_control_characters
from runner_base.console import create_console, create_rich_table
from runner_base.tables import PAGE_WIDTH
from runner_compare.features.flips.compute import Flips, TableFlips
from runner_compare.model.data import Table
from runner_compare.render.escaping import escape_markdown
from runner_compare.render.html import escape_html
from runner_compare.render.labels import format_row_and_baseline_names, get_row_and_baseline_names

ONE_COMPARISON = "This interval holds for one comparison. In a table with more comparisons, it is wider."
MAX_PRINTED = 5  # lost questions, and won questions, that a terminal shows by default


def format_flip_answer(side: dict[str, str]) -> str:
    """Format one run's answer to a question, e.g. `wrong: 12` or `no answer: –`."""
    return f"{side['verdict'].replace('_', ' ')}: {side['answer']}"


def name_flip_sides(flips: Flips, table: Table) -> tuple[str, str]:
    return get_row_and_baseline_names(table.find_row(flips.job_id), table.keys)[:2]


def format_flips_headline(flips: Flips, table: Table) -> str:
    cut = len(flips.questions) < flips.won + flips.lost
    return (
        f"{format_row_and_baseline_names(table.find_row(flips.job_id), table.keys)}: "
        f"{flips.lost} lost, {flips.won} won, "
        f"{flips.both_right} solved by both, {flips.both_wrong} solved by neither"
        f"{f' (the first {len(flips.questions)} flips)' if cut else ''}"
    )


def print_flipped_questions(table: Table, out: TextIO, max_per_direction: int | None) -> None:
    """Print both answers to flipped questions side by side, the baseline's on the left.

    `max_per_direction` limits the lost and the won questions separately.
    """
    from rich.text import Text

    def styled(*parts: str | tuple[str, str]) -> Text:
        return Text.assemble(
            *(
                (escape_control_characters(part[0]), part[1])
                if isinstance(part, tuple)
                else escape_control_characters(part)
                for part in parts
            )
        )

    terminal = create_console(out, non_terminal_width=PAGE_WIDTH)
    for flips in table.get_section_data(TableFlips).pairs:
        own_name, base_name = name_flip_sides(flips, table)
        terminal.print()
        terminal.print(format_flips_headline(flips, table), style="bold")
        lost = [flip for flip in flips.questions if not flip.won][:max_per_direction]
        won = [flip for flip in flips.questions if flip.won][:max_per_direction]
        for flip in [*lost, *won]:
            mark, style = ("won", "green") if flip.won else ("lost", "red")
            gold = (f"gold {flip.gold}", "bold")
            terminal.print(
                styled("\n", (mark, style), (f" #{flip.index} ", "bold"), f"{flip.question}  ", gold)
            )
            grid = create_rich_table(
                "SIMPLE", show_edge=False, padding=(0, 1, 0, 0), expand=True, header_style=""
            )
            for name, side in ((base_name, flip.theirs), (own_name, flip.ours)):
                grid.add_column(
                    styled((name, "bold"), f"  {format_flip_answer(side)}"), ratio=1, overflow="fold"
                )
            grid.add_row(flip.theirs["text"], flip.ours["text"])
            terminal.print(grid)
        if len(lost) + len(won) < len(flips.questions):
            terminal.print(
                f"\n{len(lost)} of {flips.lost} lost and {len(won)} of {flips.won} won questions are shown. "
                "--columns all shows all questions"
            )


def write_flips_markdown(table: Table, out: TextIO) -> None:
    for flips in table.get_section_data(TableFlips).pairs:
        out.write(f"#### {escape_markdown(format_flips_headline(flips, table))}\n\n")
        for flip in flips.questions:
            mark, index = "won" if flip.won else "lost", escape_markdown(str(flip.index))
            question = f"{escape_markdown(flip.question)} Gold: {escape_markdown(flip.gold)}"
            out.write(f"- **{mark}, question {index}:** {question}\n")
            for name, side in zip(name_flip_sides(flips, table), (flip.ours, flip.theirs), strict=True):
                out.write(
                    f"  - {escape_markdown(name)}: {escape_markdown(format_flip_answer(side))}; "
                    f"says: {escape_markdown(side['text'])}\n"
                )
        out.write("\n")


def write_flipped_questions_html(flips: Flips, table: Table, is_open: bool, out: TextIO) -> None:
    open_word = " open" if is_open else ""
    out.write(
        f"<details{open_word}><summary>Flips: {escape_html(format_flips_headline(flips, table))}</summary>\n"
    )
    own_name, base_name = name_flip_sides(flips, table)
    for flip in flips.questions:
        mark, style = ("won", "better") if flip.won else ("lost", "worse")
        out.write(
            f'<div class="flip"><p><b class="{style}">{mark}</b> '
            f"<b>#{escape_html(flip.index)}</b> {escape_html(flip.question)} "
            f'<b>gold {escape_html(flip.gold)}</b></p>\n<div class="sides">'
        )
        for name, side in ((base_name, flip.theirs), (own_name, flip.ours)):
            heading = f"{escape_html(name)} · <b>{escape_html(format_flip_answer(side))}</b>"
            out.write(f"<div>{heading}<pre>{escape_html(side['text'])}</pre></div>")
        out.write("</div></div>\n")
    out.write("</details>\n")
