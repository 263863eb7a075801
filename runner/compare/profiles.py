"""The table of profiles: what each takes and how quick it is, whichever tasks measured it."""

from __future__ import annotations

from runner.compare.data import ABSENT, Run, Table
from runner.compare.wording import Column, number
from runner.config.profiles import NONE, PROFILES

SPEEDS = ("decode_tok_per_s", "best_decode_tok_per_s", "output_tok_per_s", "best_output_tok_per_s")


def columns(tables: list[Table]) -> list[Column]:
    """Return the columns of profile | memory | load time | speed | suits; none where there is nothing to compare."""
    order = [name for name in PROFILES if name != NONE]
    runs = [row.run for table in tables for row in table.rows if row.run.params.get("profile") in order]
    runs.sort(key=lambda run: (order.index(run.params["profile"]), run.params.get("model.name", ""), run.task))
    names = [run.params["profile"] for run in runs]
    if len(set(names)) < 2:
        return []
    found = [Column("profile", names, False)]
    if len(set(names)) < len(names):  # of several models, or by several tasks
        found.append(Column("job", [run.job_id for run in runs], False))
    found.append(Column("memory\nMiB", [_metric(run, "peak_rss_mib") for run in runs]))
    if any("cuda_peak_mib" in run.metrics for run in runs):
        found.append(Column("GPU\nMiB", [_metric(run, "cuda_peak_mib") for run in runs]))
    return [
        *found,
        Column("load\ns", [_metric(run, "load_s") for run in runs]),
        Column("speed\ntok/s", [_speed(run) for run in runs]),
        Column("suits", [PROFILES[name].suits for name in names], False),
    ]


def _metric(run: Run, name: str) -> str:
    return number(run.metrics.get(name)) if name in run.metrics else ABSENT


def _speed(run: Run) -> str:
    """Return how quick the answers come: tokens a second while decoding, or of whole answers of a server."""
    if name := next((name for name in SPEEDS if name in run.metrics), None):
        return number(run.metrics[name])
    tokens, seconds = run.metrics.get("new_tokens"), run.metrics.get("seconds")
    return f"{number(tokens / seconds)} answered" if tokens and seconds else ABSENT
