"""Formats the last lines of the default output: the next command to run, and where to find details."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from runner_compare.features.flips.compute import TableFlips
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import JOB_ID, Run, Table, TableRow, key_label
from runner_compare.render.labels import round_up_to_three_digits
from runner_compare.statistics import Finding

LIMIT = "task.limit"
BASELINES = ("none", "native", "null", "greedy")  # values that leave a model as it is
SEPARATOR = " · "
SIMPLE = frozenset("._-/+") | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def format_next_steps_and_details(comparison: Comparison, tables: Sequence[Table], width: int) -> list[str]:
    """Return the lines that start with `Next:` and `Details:`; [] without a task's table."""
    if not tables:
        return []
    view = comparison.view
    # a loss first: its questions tell most
    by_loss = sorted(tables, key=lambda table: all(not is_worse(row) for row in table.candidate_rows))
    steps = (suggest_next_command(table, view.command) for table in by_loss)
    command, what = next((step for step in steps if step), ("", ""))
    lines = _format_suggested_command("Next:    ", command, what, width) if command else []
    asked = {"--explain": view.explain, "--columns all": view.all_columns, "--plot": view.plot}
    details = [option for option, is_given in asked.items() if not is_given]
    details += ["--save DIR", *([view.shown_at] if view.shown_at else [])]
    first, *others = join_texts_into_lines(details, width - 9)
    return [*lines, f"Details: {first}", *(f"         {line}" for line in others)]


def is_worse(row: TableRow) -> bool:
    return row.effect is not None and row.effect.finding is Finding.worse


def join_texts_into_lines(parts: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for part in parts:
        joined = f"{lines[-1]}{SEPARATOR}{part}" if lines else part
        if lines and len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return lines


def suggest_next_command(table: Table, command: Sequence[str]) -> tuple[str, str] | None:
    if table.get_section_data(TableFlips).pairs:  # which are shown already
        return None
    if not table.baseline:
        return _suggest_baseline(table, command)
    return (
        _suggest_more_questions(table)
        or _suggest_flipped_questions_command(table, command)
        or _suggest_command_with_margin(table, command)
    )


def _suggest_baseline(table: Table, command: Sequence[str]) -> tuple[str, str] | None:
    if len(table.rows) < 2 or not table.keys:
        return None
    pairs = [
        (key, value) for row in table.rows for key in table.keys if (value := row.config[key]) is not None
    ]
    of_models = [pair for pair in pairs if not pair[0].startswith("task.")]
    pairs = [pair for pair in pairs if pair[1] in BASELINES] or of_models or pairs
    if not pairs:
        return None
    (key, value), *_ = pairs
    return shlex.join(
        [*command, "--baseline", f"{key_label(key)}={value}"]
    ), "tests which differences are real"


def _suggest_command_with_margin(table: Table, command: Sequence[str]) -> tuple[str, str] | None:
    effects = [effect for row in table.candidate_rows if (effect := row.effect) and effect.is_undecided]
    can_help = [effect for effect in effects if not effect.no_evidence and not effect.unplanned]
    if not any(effect.margin is None for effect in can_help) or JOB_ID in table.baseline:
        return None
    margin = "2" if table.has_accuracies else "0.01nats" if table.likelihood_unit in ("token", "byte") else ""
    baseline = ",".join(f"{key_label(key)}={value}" for key, value in table.baseline.items())
    words = [*command, "--baseline", baseline, "--margin", margin]
    return (shlex.join(words), "shows which losses are below that margin") if margin else None


def _suggest_more_questions(table: Table) -> tuple[str, str] | None:
    undecided = [effect for row in table.candidate_rows if (effect := row.effect) and effect.is_undecided]
    needed = [effect.needed for effect in undecided if effect.verdict is not None and effect.needed]
    of_runner = table.has_accuracies and all(LIMIT in row.run.params for row in table.rows)
    if not needed or len(needed) < len(undecided) or not of_runner:
        return None
    return (
        f"runner … {LIMIT}={round_up_to_three_digits(max(needed))}",
        "repeats the grid's command and reuses its answers",
    )


def _suggest_flipped_questions_command(table: Table, command: Sequence[str]) -> tuple[str, str] | None:
    lost = [
        row for row in table.candidate_rows if row.effect and row.effect.counts.get("losses") and row.baseline
    ]
    lost = [row for row in lost if not row.run.parts and not row.run.number]
    if not lost or not table.has_accuracies:
        return None

    def loss(row: TableRow) -> tuple[bool, float]:
        effect = row.effect
        assert effect is not None
        return is_worse(row), -effect.value

    worst = max(lost, key=loss)
    assert worst.baseline is not None
    assert worst.effect is not None
    sides = [_format_run_filter(side, table) for side in (worst.baseline, worst)]
    count = worst.effect.counts["wins"] + worst.effect.counts["losses"]
    what = f"shows the {count:,} questions that only one of the two runs solved"
    return shlex.join([*command, "--flips", *sides]), what


def _format_run_filter(row: TableRow, table: Table) -> str:
    """Return a --where filter for a run, or its job id if the filter would need quotes."""
    values = {key_label(key): row.config[key] for key in table.keys}
    is_simple = all(value and set(value) <= SIMPLE for value in values.values())
    same = [other for other in table.rows if other.config == row.config]
    if not values or not is_simple or len(same) > 1 or not _has_all_keys(row.run, table):
        return row.run.job_id
    return ",".join(f"{key}={value}" for key, value in values.items())


def _has_all_keys(run: Run, table: Table) -> bool:
    return all(key in run.params for key in table.keys)


def _format_suggested_command(head: str, command: str, purpose: str, width: int) -> list[str]:
    indent = " " * len(head)
    lines = [head]
    for word in shlex.split(command):
        quoted = word if word == "…" else shlex.quote(word)
        if lines[-1].strip() and len(lines[-1]) + len(quoted) + 3 > width and lines[-1] != head:
            lines[-1] += " \\"
            lines.append(indent + quoted)
        else:
            lines[-1] += ("" if lines[-1] in (head, indent) else " ") + quoted
    explained = f"   ({purpose})"
    if len(lines) == 1 and len(lines[0] + explained) <= width:
        return [lines[0] + explained]
    return [*lines, f"{indent}{explained.strip()}"]
