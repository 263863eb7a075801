"""Report section with both answers to each question that only one of two runs solved.

Pages show them also without --flips.
"""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO
from typing import Any, TextIO

from runner_compare.features.flips.compute import TableFlips, select_flips_for_html_page
from runner_compare.features.flips.render import (
    MAX_PRINTED,
    ONE_COMPARISON,
    print_flipped_questions,
    write_flipped_questions_html,
    write_flips_markdown,
)
from runner_compare.model.data import Table
from runner_compare.reader import Reader
from runner_compare.section import Section


class FlipsSection(Section):
    """Report section with flips: questions that only one of two runs solved."""

    def table_record(self, table: Table) -> dict[str, Any]:
        records = [asdict(flips) for flips in table.get_section_data(TableFlips).pairs]
        return {"flips": records} if records else {}

    def short_sentences(self, table: Table) -> list[str]:
        return [ONE_COMPARISON] if table.get_section_data(TableFlips).pairs else []

    def print_terminal(self, table: Table, out: TextIO, show_all: bool) -> None:
        print_flipped_questions(table, out, None if show_all else MAX_PRINTED)

    def render_markdown(self, table: Table) -> str:
        out = StringIO()
        write_flips_markdown(table, out)
        return out.getvalue()

    def render_html(self, table: Table, reader: Reader) -> str:
        """Return the flips as HTML. They are collapsed unless --flips is set."""
        asked = table.get_section_data(TableFlips).pairs
        out = StringIO()
        for flips in asked or select_flips_for_html_page(table, reader):
            write_flipped_questions_html(flips, table, bool(asked), out)
        return out.getvalue()


SECTION = FlipsSection()
