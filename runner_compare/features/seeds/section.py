"""Report section with each seed's metrics and their variation between seeds (--seeds)."""

from __future__ import annotations

from typing import Any

from runner_base import Column
from runner_compare.features.seeds.compute import rows_with_seeds
from runner_compare.features.seeds.render import TITLE, build_per_seed_records, build_seed_columns
from runner_compare.model.data import Table, TableRow
from runner_compare.section import Section


class Seeds(Section):
    """Report section about table rows that combine several seeds."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return {TITLE: build_seed_columns(table)} if rows_with_seeds(table) else {}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        return {"seeds": build_per_seed_records(row.run)} if row.run.over_seeds else {}

    def csv_fields(self, table: Table, row: TableRow) -> dict[str, Any]:
        return {}


SECTION = Seeds()
