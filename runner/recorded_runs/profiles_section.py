"""Report section that compares profiles over all tasks: memory, load time, speed, suitable machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.config.profiles import NONE, PROFILES
from runner_base import Column, ColumnUse
from runner_compare import ABSENT, Run, Section, Table, format_number

SPEEDS = ("decode_tok_per_s", "best_decode_tok_per_s", "output_tok_per_s", "best_output_tok_per_s")


class ProfilesSection(Section):
    def cross_task_tables(self, tables: Sequence[Table]) -> dict[str, list[Column]]:
        return {"profiles": make_profile_comparison_columns(tables)}


def make_profile_comparison_columns(tables: Sequence[Table]) -> list[Column]:
    """Return the columns of the table of profiles. Empty if there are fewer than two profiles."""
    order = [name for name in PROFILES if name != NONE]
    runs = [row.run for table in tables for row in table.rows if row.run.params.get("profile") in order]
    runs.sort(
        key=lambda run: (order.index(run.params["profile"]), run.params.get("model.name", ""), run.task)
    )
    names = [run.params["profile"] for run in runs]
    if len(set(names)) < 2:
        return []
    columns = [Column("profile", names, False, use=ColumnUse.setting)]
    if len(set(names)) < len(names):  # several models, or several tasks
        columns.append(Column("job", [run.job_id for run in runs], False, use=ColumnUse.job))
    costs = [Column("peak RSS\nMiB", [format_number(run.metrics.get("peak_rss_mib")) for run in runs])]
    if any("cuda_peak_mib" in run.metrics for run in runs):
        costs.append(Column("GPU\nMiB", [format_number(run.metrics.get("cuda_peak_mib")) for run in runs]))
    costs += [
        Column("load\ns", [format_number(run.metrics.get("load_s")) for run in runs]),
        Column("speed\ntok/s", [_format_run_speed(run) for run in runs]),
        Column("suits", [PROFILES[name].suits for name in names], False),
    ]
    return [*columns, *(replace(column, use=ColumnUse.result) for column in costs)]


def _format_run_speed(run: Run) -> str:
    """Format a run's decode speed in tokens per second. For a server, the speed includes waiting
    and prefill.
    """
    if name := next((name for name in SPEEDS if name in run.metrics), None):
        return format_number(run.metrics[name])
    tokens, seconds = run.metrics.get("new_tokens"), run.metrics.get("seconds")
    return f"{format_number(tokens / seconds)} answered" if tokens and seconds else ABSENT


SECTION = ProfilesSection()
