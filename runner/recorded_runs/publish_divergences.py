"""`--publish FOLDER` of jobs with a reference: the table of divergences that quantizers put into a
model card.

`divergence.md` has a line for each format: what its weights take, the mean KL divergence and its
tail, how often the first choice is the reference's, and the ratio of the perplexities, with the
commands that find them. One table holds all formats, as a repository of quantized models does,
while accuracies have a folder for each model (publish.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from runner.recorded_runs.publish import check_single_jobs, command_of, publish
from runner.render.model_cards import divergence_explanation
from runner_base import cannot_write, replace_text
from runner_compare import ABSENT, Run, Table, TableRow, described, figure_in_words, in_markdown, short_names
from runner_compare.statistics import AT_MOST, CHIEF

FILE = "divergence.md"
OF_SIZE = ("format", "weights, MiB", "bits per weight")
HEADS = (*OF_SIZE, "mean KLD", "KLD 99 %", "KLD 99.9 %", "same top token", "PPL ratio")
BITS_A_MIB = 8 * 2**20
LONGEST_NAME = 60


def publish_all(tables: Sequence[Table], folder: Path, benchmark: str) -> list[Path]:
    """Write the accuracies and the divergences that the tables have; return the paths of the
    files."""
    sections = [text for table in tables for text in divergence_sections(table)]
    has_accuracies = any(row.run.interval is not None for table in tables for row in table.rows)
    paths = publish(tables, folder, benchmark) if has_accuracies or benchmark or not sections else []
    if not sections:
        return paths
    try:
        replace_text(folder / FILE, "\n".join(sections))
    except OSError as error:
        raise cannot_write(folder, error, "--publish") from error
    return [*paths, folder / FILE]


def divergence_sections(table: Table) -> list[str]:
    """Return a section of a model card for each reference and set of texts; none without
    divergences."""
    rows = [row for row in table.rows if CHIEF in row.run.metrics]
    check_single_jobs([row.run for row in rows])
    names = dict(
        zip((row.run.run_id for row in rows), short_names(rows, table.keys, LONGEST_NAME), strict=True)
    )
    alike: dict[tuple[str, ...], list[TableRow]] = {}
    for row in rows:
        alike.setdefault(_compared_with(row.run), []).append(row)
    return [_section(some, names) for some in alike.values()]


def _compared_with(run: Run) -> tuple[str, ...]:
    """Return what rows of one table share: the reference, the texts, and whether distributions are
    whole."""
    keys = ("task.reference", "task.data", "task.split")
    counts = (f"{run.metrics.get(key, 0):,.0f}" for key in ("n", "scored_tokens"))
    return (
        *(run.params.get(key, ABSENT) for key in keys),
        *counts,
        ("at least" if CHIEF + AT_MOST in run.metrics else ""),
    )


def _section(rows: Sequence[TableRow], names: dict[str, str]) -> str:
    reference, data, split, texts, tokens, bounds = _compared_with(rows[0].run)
    lines = [
        "## Divergence from the reference",
        "",
        _line(HEADS),
        _line(["---", *["---:"] * (len(HEADS) - 1)]),
    ]
    for row in sorted(rows, key=lambda row: -row.run.metrics.get("weight_mib", 0)):
        usual_name = row.run.params.get("quantization.name", row.run.job_id)
        name = names[row.run.run_id]
        lines.append(_line([usual_name if name == row.run.job_id else name, *_cells(row.run)]))
    explanation = divergence_explanation(reference, bool(bounds), texts, tokens, data, split)
    commands = dict.fromkeys(command_of(row.run) for row in rows)
    return "\n".join(
        [*lines, "", in_markdown(explanation), "", *(f"    {command}" for command in commands), ""]
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(in_markdown(cell).replace('|', '/') for cell in cells)} |"


def _cells(run: Run) -> list[str]:
    """Return the numbers of a run in the order of the heads."""
    mib, parameters = run.metrics.get("weight_mib"), run.metrics.get("parameters")
    keys = ("kl_nats_per_token", "kl_p99_nats", "kl_p999_nats", "top_1_agreement")
    return [
        ABSENT if mib is None else f"{mib:,.2f}",
        f"{mib * BITS_A_MIB / parameters:.2f}" if mib and parameters else ABSENT,
        *(figure_in_words(run.metrics, key, described(key).write, "{} – {}") or ABSENT for key in keys),
        figure_in_words(run.metrics, "ln_ppl_ratio", lambda value: f"{math.exp(value):.4f}", "{} – {}")
        or ABSENT,
    ]
