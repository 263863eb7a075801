"""Message templates for the checks of a gate, by note code."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base import format_against_limit
from runner_base.render.notes import Template
from runner_compare.render.labels import format_number
from runner_compare.render.margins import UNDECIDED

SIGNS = {">=": "≥", "<=": "≤"}


def _format_metric_against_limit(
    key: str, value: float, sign: str, limit: float, low: float, high: float, baseline: float | None
) -> str:
    numbers = [format_against_limit(number, limit, format_number) for number in (value, low, high)]
    interval = "" if low == high else f" [{numbers[1]}, {numbers[2]}]"
    undecided = f" ({UNDECIDED})" if low < limit < high else ""
    of_baseline = "" if baseline is None else f"; baseline {format_number(baseline)}"
    return (
        f"{key} {numbers[0]}{interval}, required {SIGNS[sign]} {format_number(limit)}{undecided}{of_baseline}"
    )


def _describe_no_interval(key: str, value: float, sign: str, limit: float, why: str) -> str:
    need = f": {why}" if why else ""
    return f"{key} {format_number(value)} without an interval{need}, required {SIGNS[sign]} {format_number(limit)}"


def _describe_missing(state: str, reason: str) -> str:
    return f"no result: {state}" + (f" ({reason})" if reason else "")


NOTES: Mapping[str, Template] = {
    "within": "",  # the verdict on the margin says it
    "beyond": "",
    "undecided": "",
    "beyond_share": lambda error_rate: (
        f"not significant at this test's error rate of {100 * error_rate:.2g} %"
    ),
    "not_compared": "not compared with the baseline: {why}",
    "other_machine": (
        "speeds are not compared: measured on {machine}, the baseline on {baseline_machine}. Measure the "
        "baseline on the candidate's machine"
    ),
    "no_measure": "not compared: no result for the margin of {measure}",
    "missing_measure": "no result for {measure}, which the baseline has",
    "no_task": "no result for task {task}",
    "no_metric": "{key} is not recorded",
    "no_interval": _describe_no_interval,
    "limit": _format_metric_against_limit,
    "no_result": _describe_missing,
    "expected": lambda similar: (
        "expected, but no result was found" + (f". Did you mean {' or '.join(similar)}?" if similar else "")
    ),
}
