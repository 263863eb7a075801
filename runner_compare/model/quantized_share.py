"""Rows whose quantization leaves much of the model as it is: said beside each verdict about
them."""

from __future__ import annotations

from runner_base.notes import Note, note
from runner_base.result import NOTED_BELOW
from runner_compare.model.data import Run, Table, TableRow

SHARE = "quantized_share"
OF_ALL = "quantized_share_of_all"
OF_BYTES = "quantized_share_of_bytes"
OF_WANTED = "quantized_share_of_wanted"  # where the user has named layers that stay as they are


def beside_reach(table: Table) -> None:
    """Say with each finding which side is quantized in name more than in fact; once where a row has
    none."""
    for row in table.rows:
        remarks = _of_row(row)
        if row.effect is not None:
            row.effects = [effect.noting(*remarks) for effect in row.effects]
        if row.effect is None and not row.is_baseline:
            table.remarks += [remark for remark in remarks if remark not in table.remarks]


def _of_row(row: TableRow) -> list[Note]:
    runs = [row.run] if row.baseline is None else [row.run, row.baseline.run]
    return [remark for run in runs if (remark := _of_run(run))]


def _of_run(run: Run) -> Note | None:
    """Return what a run's quantization reaches; None if that is nearly all of what it names."""
    share = run.metrics.get(SHARE)
    if share is None or run.metrics.get(OF_WANTED, share) >= NOTED_BELOW:
        return None
    name = run.params.get("quantization.name", "the stored quantization")
    shares = share, run.metrics.get(OF_ALL), run.metrics.get(OF_BYTES)
    return note("little_quantized", name=name, job=run.job_id, shares=shares)
