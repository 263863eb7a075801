"""Implements `--publish FOLDER` for jobs with a reference model: writes a table of divergences for
model cards.

`divergence.md` has a line for each format: the size of its weights, the mean KL divergence and
its tail, how often the top token equals the reference's, and the ratio of the perplexities,
with the commands that reproduce them. One table holds all formats, as a repository of quantized
models does, while accuracies have a folder for each model (publish.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from runner.recorded_runs.publish import (
    format_reproduction_command,
    publish_accuracies,
    require_runs_of_single_jobs,
)
from runner.render.model_cards import explain_divergence_columns
from runner_base import convert_write_error, replace_text_file_atomically
from runner_compare import (
    ABSENT,
    Run,
    Table,
    TableRow,
    escape_markdown,
    find_metric,
    format_metric,
    shorten_row_names,
)
from runner_compare.statistics import AT_MOST, CHIEF

FILE = "divergence.md"
OF_SIZE = ("format", "weights, MiB", "bits per weight")
HEADS = (*OF_SIZE, "mean KLD", "KLD 99 %", "KLD 99.9 %", "same top token", "PPL ratio")
BITS_A_MIB = 8 * 2**20
LONGEST_NAME = 60


def publish_accuracies_and_divergences(tables: Sequence[Table], folder: Path, benchmark: str) -> list[Path]:
    sections = [text for table in tables for text in format_divergence_sections(table)]
    has_accuracies = any(row.run.accuracy_interval is not None for table in tables for row in table.rows)
    paths = (
        publish_accuracies(tables, folder, benchmark) if has_accuracies or benchmark or not sections else []
    )
    if not sections:
        return paths
    try:
        replace_text_file_atomically(folder / FILE, "\n".join(sections))
    except OSError as error:
        raise convert_write_error(folder, error, "--publish") from error
    return [*paths, folder / FILE]


def format_divergence_sections(table: Table) -> list[str]:
    """Return a model card section for each reference and set of documents. Empty if no run has
    divergences.
    """
    rows = [row for row in table.rows if CHIEF in row.run.metrics]
    require_runs_of_single_jobs([row.run for row in rows])
    names = dict(
        zip((row.run.run_id for row in rows), shorten_row_names(rows, table.keys, LONGEST_NAME), strict=True)
    )
    alike: dict[tuple[str, ...], list[TableRow]] = {}
    for row in rows:
        alike.setdefault(_get_divergence_table_key(row.run), []).append(row)
    return [_format_divergence_section(some, names) for some in alike.values()]


def _get_divergence_table_key(run: Run) -> tuple[str, ...]:
    """Return a grouping key: runs with equal keys share a published table."""
    keys = ("task.reference", "task.data", "task.split")
    counts = (f"{run.metrics.get(key, 0):,.0f}" for key in ("n", "scored_tokens"))
    return (
        *(run.params.get(key, ABSENT) for key in keys),
        *counts,
        ("at least" if CHIEF + AT_MOST in run.metrics else ""),
    )


def _format_divergence_section(table_rows: Sequence[TableRow], names: dict[str, str]) -> str:
    reference, data, split, texts, tokens, bounds = _get_divergence_table_key(table_rows[0].run)
    lines = [
        "## Divergence from the reference",
        "",
        _markdown_row(HEADS),
        _markdown_row(["---", *["---:"] * (len(HEADS) - 1)]),
    ]
    for row in sorted(table_rows, key=lambda row: -row.run.metrics.get("weight_mib", 0)):
        usual_name = row.run.params.get("quantization.name", row.run.job_id)
        name = names[row.run.run_id]
        lines.append(
            _markdown_row(
                [usual_name if name == row.run.job_id else name, *_format_divergence_table_cells(row.run)]
            )
        )
    explanation = explain_divergence_columns(reference, bool(bounds), texts, tokens, data, split)
    commands = dict.fromkeys(format_reproduction_command(row.run) for row in table_rows)
    return "\n".join(
        [*lines, "", escape_markdown(explanation), "", *(f"    {command}" for command in commands), ""]
    )


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(escape_markdown(cell).replace('|', '/') for cell in cells)} |"


def _format_divergence_table_cells(run: Run) -> list[str]:
    mib, parameters = run.metrics.get("weight_mib"), run.metrics.get("parameters")
    keys = ("kl_nats_per_token", "kl_p99_nats", "kl_p999_nats", "top_1_agreement")
    return [
        ABSENT if mib is None else f"{mib:,.2f}",
        f"{mib * BITS_A_MIB / parameters:.2f}" if mib and parameters else ABSENT,
        *(
            format_metric(run.metrics, key, find_metric(key).format_value, "{} – {}") or ABSENT
            for key in keys
        ),
        format_metric(run.metrics, "ln_ppl_ratio", lambda value: f"{math.exp(value):.4f}", "{} – {}")
        or ABSENT,
    ]
