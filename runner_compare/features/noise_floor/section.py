"""Report section that counts the answers that differ between two runs of the baseline."""

from __future__ import annotations

from typing import Any

from runner_compare.features.noise_floor.compute import TableNoiseFloors, compute_noise_floors
from runner_compare.features.noise_floor.render import format_noise_floors
from runner_compare.model.data import Table
from runner_compare.reader import Reader
from runner_compare.section import Section


class NoiseFloors(Section):
    """Report section with the noise floor of each baseline that was run at least twice."""

    def compute(self, table: Table, reader: Reader) -> None:
        table.get_section_data(TableNoiseFloors).floors = compute_noise_floors(table, reader)

    def sentences(self, table: Table) -> list[str]:
        return format_noise_floors(table.get_section_data(TableNoiseFloors).floors)

    def table_record(self, table: Table) -> dict[str, Any]:
        floors = table.get_section_data(TableNoiseFloors).floors
        return {"noise_floors": [floor.to_dict() for floor in floors]} if floors else {}


SECTION = NoiseFloors()
