"""Adds notes about quantized runs if most of the model's weights are unquantized."""

from __future__ import annotations

from runner_base.notes import Note, note
from runner_base.result import NOTED_BELOW
from runner_compare.model.data import Run, Table, TableRow

SHARE = "quantized_share"
OF_ALL = "quantized_share_of_all"
OF_BYTES = "quantized_share_of_bytes"
OF_WANTED = "quantized_share_of_wanted"  # where the user has named layers that stay as they are


def add_coverage_notes(table: Table) -> None:
    """Add a note to each finding about a quantized model of which most weights are unquantized.

    Rows without a finding add the note once to the table.
    """
    for row in table.rows:
        remarks = _row_notes(row)
        if row.effect is not None:
            row.effects = [effect.with_notes(*remarks) for effect in row.effects]
        if row.effect is None and not row.is_baseline:
            table.remarks += [remark for remark in remarks if remark not in table.remarks]


def _row_notes(row: TableRow) -> list[Note]:
    runs = [row.run] if row.baseline is None else [row.run, row.baseline.run]
    return [remark for run in runs if (remark := _create_low_quantization_coverage_note(run))]


def _create_low_quantization_coverage_note(run: Run) -> Note | None:
    """Return a note with the fraction of quantized weights. None if nearly all intended weights are
    quantized.
    """
    share = run.metrics.get(SHARE)
    if share is None or run.metrics.get(OF_WANTED, share) >= NOTED_BELOW:
        return None
    name = run.params.get("quantization.name", "the stored quantization")
    shares = share, run.metrics.get(OF_ALL), run.metrics.get(OF_BYTES)
    return note("little_quantized", name=name, job=run.job_id, shares=shares)
