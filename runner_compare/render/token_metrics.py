"""Formats token-level metrics as text, and as tables of one job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner_compare.statistics.token_divergence import AT_MOST, CHIEF, list_categories

LINES = (  # words, the figure of KL and that of Δp
    ("mean", "kl_nats_per_token", "delta_p_mean"),
    ("root mean square", "", "delta_p_rms"),
    ("smallest", "", "delta_p_smallest"),
    ("0.1 %", "", "delta_p_p001"),
    ("1 %", "", "delta_p_p01"),
    ("5 %", "", "delta_p_p05"),
    ("10 %", "", "delta_p_p10"),
    ("25 %", "", "delta_p_p25"),
    ("median", "kl_median_nats", "delta_p_median"),
    ("75 %", "", "delta_p_p75"),
    ("90 %", "kl_p90_nats", "delta_p_p90"),
    ("95 %", "kl_p95_nats", "delta_p_p95"),
    ("99 %", "kl_p99_nats", "delta_p_p99"),
    ("99.9 %", "kl_p999_nats", "delta_p_p999"),
    ("largest", "kl_max_nats", "delta_p_largest"),
)


def build_divergence_tables(metrics: Mapping[str, float]) -> dict[str, list[dict[str, Any]]]:
    if CHIEF not in metrics:
        return {}
    lines: list[dict[str, Any]] = []
    for share, kl, delta_p in LINES:
        line = {
            "of the tokens": share,
            "KL, nats": _format_cell(metrics, kl, ".3g"),
            "Δp, points": _format_cell(metrics, delta_p, ".3f"),
        }
        lines += [line] if any(cell for cell in (line["KL, nats"], line["Δp, points"])) else []
    kinds: list[dict[str, Any]] = [
        {
            "category": name,
            "texts": int(metrics[f"n/{name}"]),
            "tokens": int(metrics[f"scored_tokens/{name}"]),
        }
        | {
            head: _format_cell(metrics, key, ".3g", f"/{name}")
            for head, key in (
                ("mean KL", "kl_nats_per_token"),
                ("median", "kl_median_nats"),
                ("99 %", "kl_p99_nats"),
                ("99.9 %", "kl_p999_nats"),
                ("largest", "kl_max_nats"),
            )
        }
        | {"same first choice": f"{100 * metrics[f'top_1_agreement/{name}']:.2f}%"}
        for name in list_categories(metrics)
    ]
    tables = {
        "divergence from the reference, with 95 % intervals over documents if available": lines,
        "by category": kinds,
    }
    return {title: some for title, some in tables.items() if some}


def _format_cell(metrics: Mapping[str, float], key: str, number_format: str, suffix: str = "") -> str:
    scale = 100 if key.startswith("delta_p") else 1
    return format_metric(
        metrics, key, lambda figure: format(scale * figure, number_format), "at least {}, at most {}", suffix
    )


def format_metric(
    metrics: Mapping[str, float],
    key: str,
    format_number: Callable[[float], str],
    bounds: str,
    suffix: str = "",
) -> str:
    """Format a metric with its interval or its bounds; "" if the metric is missing.

    `suffix` selects a category or another cell.
    """
    if f"{key}{suffix}" not in metrics:
        return ""

    def format_end(end: str) -> str:
        number = format_number(metrics[f"{key}{end}{suffix}"]).replace("-", "−")
        return number.replace("inf", "∞")  # a server does not say how improbable a token may be

    value = format_end("")
    if f"{key}{AT_MOST}{suffix}" in metrics:
        value = bounds.format(value, format_end(AT_MOST))
    return value + (
        f" [{format_end('_low')}, {format_end('_high')}]" if f"{key}_low{suffix}" in metrics else ""
    )
