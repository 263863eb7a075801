"""Flips: the questions that only one of two runs solved, with both answers; on a page also without
--flips."""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO
from typing import Any, TextIO

from runner_compare.features.flips.compute import FlipsOfTable, flips_of
from runner_compare.features.flips.render import print_flips, write_markdown, write_page_part
from runner_compare.model.data import Table
from runner_compare.reader import Reader
from runner_compare.section import Section


class FlipsSection(Section):
    """The questions that only one of two runs solved."""

    def record(self, table: Table) -> dict[str, Any]:
        """Return the flips as plain data."""
        records = [asdict(flips) for flips in table.of(FlipsOfTable).pairs]
        return {"flips": records} if records else {}

    def terminal(self, table: Table, out: TextIO) -> None:
        print_flips(table, out)

    def markdown(self, table: Table) -> str:
        out = StringIO()
        write_markdown(table, out)
        return out.getvalue()

    def page(self, table: Table, reader: Reader) -> str:
        """Return the flips, closed where nobody asked for them."""
        asked = table.of(FlipsOfTable).pairs
        out = StringIO()
        for flips in asked or flips_of(table, reader):
            write_page_part(flips, table, bool(asked), out)
        return out.getvalue()


SECTION = FlipsSection()
