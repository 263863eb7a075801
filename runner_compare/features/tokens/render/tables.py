"""Tables of token-level results: KL percentiles, llama-perplexity statistics, and most divergent tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from typing import Any, TextIO

from runner_base import Column, ColumnUse, ConfigError
from runner_compare.features.tokens.render.llama_block import format_llama_perplexity_statistics
from runner_compare.metrics import KL_SHARES, find_metric
from runner_compare.model.data import ABSENT, Run, Table
from runner_compare.reader import Reader
from runner_compare.render.columns import build_row_name_columns_for
from runner_compare.render.html import escape_html
from runner_compare.render.labels import format_row_name
from runner_compare.render.token_metrics import format_metric
from runner_compare.statistics import MIN_TEXTS
from runner_compare.statistics.token_divergence import AT_MOST, CHIEF, list_categories

TITLE = "KL divergence from the reference per token, in nats, with 95 % intervals over documents"
BY_CATEGORY = "the same by category of texts"
SHOWN = ("kl_nats_per_token", *KL_SHARES, "kl_max_nats", "delta_p_mean", "delta_p_rms", "delta_p_p01",
         "ln_ppl_ratio", "ln_ppl_correlation", "top_1_agreement")  # fmt: skip
OF_CATEGORY = ("n", "scored_tokens", "kl_nats_per_token", "kl_median_nats", "kl_p99_nats", "kl_p999_nats",
               "kl_max_nats", "top_1_agreement")  # fmt: skip
# of the table of categories
DROP_ORDERS = {"kl_median_nats": 1, "kl_p999_nats": 2, "n": 3, "scored_tokens": 4}
HEADS = {"kl_nats_per_token": "mean", "kl_median_nats": "median", "kl_max_nats": "largest", "delta_p_mean": "Δp",
         "delta_p_rms": "RMS Δp", "delta_p_p01": "1 %\nΔp", "ln_ppl_ratio": "ln(PPL\nratio)",
         "ln_ppl_correlation": "correlation", "top_1_agreement": "same\nfirst", "n": "documents",
         "scored_tokens": "tokens"}  # fmt: skip
HEADS |= {key: f"{100 * share:g} %" for key, share in KL_SHARES.items() if share != 0.5}
NO_BLOCK = (
    "no run compared full distributions with a reference model. Run the job with "
    "task.reference=OVERRIDES task.exact=true. If a result exists, add rerun=all"
)
WORST_HEADS = ("KL, nats", "text", "reference: p, first choice", "here: p, first choice", "sample")
LEGEND = (
    "KL is the divergence of the row from the reference, over whole distributions, or over the tokens that the "
    "reference kept, with task.exact=false and where the two models do not fit beside each other; its interval "
    f"is of the same kind, from {MIN_TEXTS} texts on, and holds for kinds of text with much of the divergence "
    "if the sample contains about 10 of them or more."
)


def build_token_divergence_tables(table: Table) -> dict[str, list[Column]]:
    if not any(CHIEF in row.run.metrics for row in table.rows):
        return {}
    titled = {TITLE: build_token_divergence_columns(table), BY_CATEGORY: build_category_columns(table)}
    return {title: columns for title, columns in titled.items() if columns}


def build_token_divergence_columns(table: Table) -> list[Column]:
    """Return columns for the token statistics that llama-perplexity prints.

    Rows without token metrics, such as the reference itself, are omitted.
    """
    rows = [row for row in table.rows if CHIEF in row.run.metrics]
    return [
        *build_row_name_columns_for(table, rows),
        *(
            Column(HEADS[key], [_format_cell(row.run, key) for row in rows], use=ColumnUse.result)
            for key in SHOWN
        ),
    ]


def build_category_columns(table: Table) -> list[Column]:
    lines = [(row, name) for row in table.rows for name in list_categories(row.run.metrics)]
    if not lines:
        return []
    columns = build_row_name_columns_for(table, [row for row, _ in lines])
    columns.append(Column("category", [name for _, name in lines], False, use=ColumnUse.setting))
    for key in OF_CATEGORY:
        cells = [_format_cell(row.run, key, f"/{name}") for row, name in lines]
        use = ColumnUse.more if key == "kl_max_nats" else ColumnUse.result
        columns.append(Column(HEADS[key], cells, drop_order=DROP_ORDERS.get(key, 0), use=use))
    return columns


def _format_cell(run: Run, key: str, suffix: str = "") -> str:
    return format_metric(run.metrics, key, find_metric(key).format_value, "{} – {}", suffix) or ABSENT


def write_llama_perplexity_statistics(tables: Iterable[Table], reader: Reader, out: TextIO) -> None:
    blocks = [
        (format_row_name(row, table.keys) or row.run.job_id, found)
        for table in tables
        for row in table.rows
        if (found := format_statistics_like_llama_perplexity(row.run, reader)) is not None
    ]
    if not blocks:
        raise ConfigError(NO_BLOCK, key="--format", value="llama", code="empty")
    out.write("\n".join(f"{name}\n\n{found}\n" for name, found in blocks))


def format_statistics_like_llama_perplexity(run: Run, reader: Reader) -> str | None:
    """Format one run's statistics like llama-perplexity; None if the run did not store full distributions."""
    if CHIEF not in run.metrics or CHIEF + AT_MOST in run.metrics:
        return None
    texts = reader.load_text_tokens(run)
    if texts is None or not all(text.reference for text in texts):
        return None
    return format_llama_perplexity_statistics(
        [value for text in texts for value in text.least],
        [value for text in texts for value in text.logprobs],
        [value for text in texts for value in text.reference],
        sum(text.agreed for text in texts),
    )


@dataclass
class WorstTokens:
    """A run's tokens with the largest divergence from the reference, formatted for HTML."""

    name: str
    tokens: list[dict[str, str]]


def collect_most_divergent_tokens(table: Table, reader: Reader) -> list[WorstTokens]:
    found = []
    for row in table.rows:
        tokens = reader.load_worst_tokens(row.run) if CHIEF in row.run.metrics else []
        if tokens:
            name = format_row_name(row, table.keys) or row.run.job_id
            found.append(WorstTokens(name, [_format_token(token) for token in tokens]))
    return found


def _format_token(token: dict[str, Any]) -> dict[str, str]:
    at_most = token["kl_at_most_nats"]
    return {
        "nats": f"{token['kl_nats']:.3g}" + ("" if at_most is None else f" – {at_most:.3g}"),
        **{key: token[key] for key in ("before", "token", "after")},
        "reference": f"{_format_probability(token['reference_logprob'])} · {token['reference_first']!r}",
        "here": f"{_format_probability(token['logprob'])} · {token['first']!r}",
        "sample": " · ".join(filter(None, (str(token["index"]), token["category"]))),
    }


def _format_probability(logprob: float | None) -> str:
    return ABSENT if logprob is None else f"{100 * math.exp(logprob):.3g} %"


def render_worst_tokens_as_html(worst_tokens: WorstTokens) -> str:
    title = f"{len(worst_tokens.tokens)} worst tokens: {worst_tokens.name}"
    out = StringIO()
    out.write(f'<details><summary>{escape_html(title)}</summary>\n<div class="wide">\n<table>\n<thead><tr>')
    out.writelines(f"<th>{escape_html(head)}</th>" for head in WORST_HEADS)
    out.write("</tr></thead>\n<tbody>\n")
    for token in worst_tokens.tokens:
        text = (
            f"{escape_html(token['before'])}<b "
            f'class="worse">{escape_html(token["token"])}</b>{escape_html(token["after"])}'
        )
        out.write(
            f'<tr><th scope="row" class=n>{escape_html(token["nats"])}</th><td class="context">{text}</td>'
        )
        out.writelines(f"<td>{escape_html(token[key])}</td>" for key in ("reference", "here", "sample"))
        out.write("</tr>\n")
    out.write("</tbody>\n</table>\n</div>\n</details>\n")
    return out.getvalue()
