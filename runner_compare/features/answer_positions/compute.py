"""Tests from which generated position on a run's divergence is larger than at the start of the answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.model.data import NotPaired, Run, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.statistics import Decision, decide_comparisons_with_holm
from runner_compare.statistics.answer_positions import (
    CELL,
    create_kl_growth_tests,
    find_kl_growth_start,
    list_generated_positions,
)
from runner_compare.statistics.methods.sign_flips import SignFlipTest


@dataclass
class Growth:
    """Decisions for each bin after the start of the answers: is the divergence larger than there?"""

    decisions: dict[int, Decision]  # by the first position of the bin

    @property
    def first_position(self) -> int | None:
        """Token position from which all tested bins diverge more than the first bin, or None."""
        return find_kl_growth_start(self.decisions)


@dataclass
class TableGrowth:
    """The growth of the divergence in each run, by run id. All tests of a table share the 5 %."""

    by_run: dict[str, Growth] = field(default_factory=dict)


def compute_kl_growth_by_position(table: Table, reader: Reader) -> None:
    tests = {
        (row.run.run_id, first): test
        for row in table.rows
        for first, test in _create_row_kl_growth_tests(row, reader).items()
    }
    by_run = table.get_section_data(TableGrowth).by_run
    for (run_id, first), decision in zip(tests, decide_comparisons_with_holm(tests.values()), strict=True):
        by_run.setdefault(run_id, Growth({})).decisions[first] = decision


def _create_row_kl_growth_tests(row: TableRow, reader: Reader) -> dict[int, SignFlipTest]:
    if row.is_repeat or not has_divergence_by_position(row.run):
        return {}
    try:
        texts = reader.load_text_scores(row.run)
    except NotPaired:  # the row says why
        return {}
    clusters = {score.likelihood.unit: score.cluster for score in texts.values()}
    return create_kl_growth_tests([score.likelihood for score in texts.values()], clusters)


def has_divergence_by_position(run: Run) -> bool:
    return any(
        f"kl_nats_per_token/{CELL}{first}" in run.metrics for first in list_generated_positions(run.metrics)
    )
