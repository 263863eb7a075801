"""Lines that a grid prints: progress, outcome of each job, and the summary at the end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner_base import ProgressState, format_count, format_duration
from runner_compare import LOG_LIKELIHOOD, find_metric

DETAILS = ("decode", "batch size")  # news of a job that a grid does not show
MINUS, SIGN = "−", re.compile(r"(?<!e)-")
SCORE_WIDTH = len("accuracy 94.6 % [78.4, 97.5]")
SPEED_WIDTH, TIME_WIDTH = len("7,229 tok/s"), len("10.0 s")
GAP = "   "


@dataclass(frozen=True)
class JobCells:
    """Formatted metrics of a finished job, one per column."""

    score: str
    speed: str = ""
    time: str = ""
    rest: Sequence[str] = ()

    def filled(self) -> list[str]:
        return [cell for cell in (self.score, self.speed, self.time, *self.rest) if cell]

    def format_aligned(self) -> str:
        cells = [f"{self.score:<{SCORE_WIDTH}}", f"{self.speed:>{SPEED_WIDTH}}", f"{self.time:>{TIME_WIDTH}}"]
        return GAP.join([*cells, *self.rest]).rstrip()


def build_job_cells(metrics: Mapping[str, float], alternative_scores: Sequence[str] = ()) -> JobCells:
    """Format a job's metrics. `alternative_scores` are shown if the job has no score."""
    speed = ""
    if decode := metrics.get("decode_tok_per_s"):
        speed = f"{decode:,.0f} tok/s"
    elif prefill := metrics.get("prefill_tok_per_s"):
        speed = f"{prefill:,.0f} tok/s"
    seconds = metrics.get("seconds")
    score = _format_main_score(metrics) or " · ".join(alternative_scores)
    return JobCells(
        score,
        speed,
        "" if seconds is None else format_duration(seconds),
        _format_early_stop_and_costs(metrics),
    )


def _format_main_score(metrics: Mapping[str, float]) -> str:
    for key in ("accuracy", "acc"):
        if key in metrics:
            return f"accuracy {format_percent_with_interval(metrics, key)}"
    if "kl_nats_per_token" in metrics:
        return f"KL {_format_value_with_interval(metrics, 'kl_nats_per_token')} nats/token"
    if LOG_LIKELIHOOD in metrics:
        return f"log-likelihood {_format_value_with_interval(metrics, LOG_LIKELIHOOD)} nats/token"
    if "best_output_tok_per_s" in metrics:
        return f"at most {metrics['best_output_tok_per_s']:,.0f} tok/s"
    if "best_decode_tok_per_s" in metrics:
        return f"at most {metrics['best_decode_tok_per_s']:,.0f} tok/s"
    if "peak_over_baseline_mib" in metrics:
        return f"peak {metrics['peak_over_baseline_mib']:,.0f} MiB"
    if {"n", "stopped", "cut_off", "errors"} <= metrics.keys():
        return _format_answer_counts(metrics)
    return ""


def _format_answer_counts(metrics: Mapping[str, float]) -> str:
    parts = [format_count(round(metrics["n"]), "answer")]
    parts += [f"{metrics['cut_off']:,.0f} cut off"] if metrics["cut_off"] else []
    parts += [format_count(round(metrics["errors"]), "error")] if metrics["errors"] else []
    return ", ".join(parts)


def _format_early_stop_and_costs(metrics: Mapping[str, float]) -> list[str]:
    """Format the metrics that only some jobs have: early stop, costs, energy."""
    rest = []
    name = "early_stop_difference_points"
    if {f"{name}{end}" for end in ("", "_low", "_high")} <= metrics.keys():
        stopped = "stopped early" if metrics.get("questions_left") else "not stopped early"
        rest.append(
            f"{stopped}: {_format_value_with_interval(metrics, name)} points compared with the baseline"
        )
    if "cost_usd" in metrics:
        rest.append(f"{find_metric('cost_usd').format_value(metrics['cost_usd'])} USD")
    if "joules_per_right_answer" in metrics:
        joules = find_metric("joules_per_right_answer").format_value(metrics["joules_per_right_answer"])
        rest.append(f"{joules} J/correct answer")
    if "energy_cost" in metrics:
        rest.append(f"energy cost {find_metric('energy_cost').format_value(metrics['energy_cost'])}")
    return rest


def format_percent_with_interval(metrics: Mapping[str, float], key: str) -> str:
    """Return a metric such as `94.6 % [78.4, 97.5]`, without the interval if there is none."""
    low, high = (metrics.get(f"{key}{end}") for end in ("_low", "_high"))
    value = f"{100 * metrics[key]:.1f} %"
    return value if low is None or high is None else f"{value} [{100 * low:.1f}, {100 * high:.1f}]"


def _format_value_with_interval(metrics: Mapping[str, float], key: str) -> str:
    metric = find_metric(key)
    low, high = (metrics.get(f"{key}{end}") for end in ("_low", "_high"))
    value = metric.format_value(metrics[key])
    if low is None or high is None:
        return SIGN.sub(MINUS, value)
    return SIGN.sub(MINUS, f"{value} [{metric.format_value(low)}, {metric.format_value(high)}]")


# ------------------------------------------------------------------------------------------- while jobs run


def format_job_progress(step: ProgressState | None) -> str:
    """Format a running job's progress. If there is no progress yet, the job is starting."""
    if step is None:
        return "starting"
    news = {key: value for key, value in step.news.items() if key not in DETAILS}
    accuracy = news.pop("accuracy", "")
    cells = [step.format_count() if accuracy else f"{step.what} {step.format_count()}".strip()]
    cells += [f"{accuracy.removesuffix('%').strip()} % correct"] if accuracy else []
    cells += [f"{key} {value}" for key, value in news.items()]
    return ", ".join([*cells, *([f"{format_duration(step.left_s)} left"] if step.left_s else [])])


def format_job_counts(num_done: int, num_jobs: int, num_failed: int) -> str:
    return f"{num_done} of {num_jobs} done" + (f", {num_failed} failed" if num_failed else "")


def format_grid_progress(summary: str, running: Sequence[tuple[str, str]], max_jobs: int) -> str:
    if len(running) == 1:
        ((label, cells),) = running
        return f"{summary} · {label}: {cells}"
    lines = [f"{summary} · {len(running)} running" if running else summary]
    lines += [f"    {label}: {cells}" for label, cells in running[:max_jobs]]
    lines += [f"    and {len(running) - max_jobs} more"] if len(running) > max_jobs else []
    return "\n".join(lines)


def format_ended_job_line(job_counter: str, label: str, width: int, cells: JobCells, note: str) -> str:
    line = f"{job_counter} {label:<{width}}{GAP}{cells.format_aligned()}"
    return f"{line}{GAP}({note})" if note else line


# -------------------------------------------------------------------------------------------------- the end

NEXT, MLFLOW, MORE = "Next:", "MLflow:", "More:"
WHAT_COMPARE_SHOWS = "(compares this job with recorded jobs of other settings)"
HOW_TO_SEE_MORE = "print=full shows all details, print=json all metrics"
RECORDED_BEFORE, RECORDED_MEANWHILE = "recorded before", "recorded meanwhile"


def format_grid_summary_line(statuses: Sequence[str], seconds: float, folder: str) -> str:
    """Summarize a grid: how many jobs ended with each status, the total time, and the results folder."""
    totals = Counter(statuses)
    parts = ", ".join(f"{count} {status}" for status, count in totals.items())
    return f"{format_count(len(statuses), 'job')}: {parts} · {format_duration(seconds)} in all · results in {folder}"


def format_scores_line(url: str, is_local: bool) -> str:
    """Return the line with the address of the MLflow page that shows the jobs' scores."""
    return format_hint_line("", f"then open {url}" if is_local else url)


def format_hint_line(name: str, text: str) -> str:
    """Return a line that suggests what to do next."""
    return f"{name:<8} {text}"
