"""Figures of single tokens as text, and as tables of a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner_compare.statistics.token_divergence import AT_MOST, CHIEF, categories_of

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


def divergence_tables(figures: Mapping[str, float]) -> dict[str, list[dict[str, Any]]]:
    """Return the tables of a job with figures of tokens: a line for each statistic, and one for
    each category."""
    if CHIEF not in figures:
        return {}
    lines: list[dict[str, Any]] = []
    for share, kl, delta_p in LINES:
        line = {
            "of the tokens": share,
            "KL, nats": _cell(figures, kl, ".3g"),
            "Δp, points": _cell(figures, delta_p, ".3f"),
        }
        lines += [line] if any(cell for cell in (line["KL, nats"], line["Δp, points"])) else []
    kinds: list[dict[str, Any]] = [
        {
            "category": name,
            "texts": int(figures[f"n/{name}"]),
            "tokens": int(figures[f"scored_tokens/{name}"]),
        }
        | {
            head: _cell(figures, key, ".3g", f"/{name}")
            for head, key in (
                ("mean KL", "kl_nats_per_token"),
                ("median", "kl_median_nats"),
                ("99 %", "kl_p99_nats"),
                ("99.9 %", "kl_p999_nats"),
                ("largest", "kl_max_nats"),
            )
        }
        | {"same first choice": f"{100 * figures[f'top_1_agreement/{name}']:.2f}%"}
        for name in categories_of(figures)
    ]
    tables = {
        "how far from the reference, with 95 % intervals over texts where there are enough": lines,
        "by category": kinds,
    }
    return {title: some for title, some in tables.items() if some}


def _cell(figures: Mapping[str, float], key: str, form: str, of: str = "") -> str:
    scale = 100 if key.startswith("delta_p") else 1
    return figure_in_words(
        figures, key, lambda figure: format(scale * figure, form), "at least {}, at most {}", of
    )


def figure_in_words(
    figures: Mapping[str, float], key: str, write: Callable[[float], str], bounds: str, of: str = ""
) -> str:
    """Return a figure, or that of a category, with its interval, or as two bounds; empty if there
    is none."""
    if f"{key}{of}" not in figures:
        return ""

    def written(end: str) -> str:
        number = write(figures[f"{key}{end}{of}"]).replace("-", "−")
        return number.replace("inf", "∞")  # a server does not say how improbable a token may be

    value = written("")
    if f"{key}{AT_MOST}{of}" in figures:
        value = bounds.format(value, written(AT_MOST))
    return value + (f" [{written('_low')}, {written('_high')}]" if f"{key}_low{of}" in figures else "")
