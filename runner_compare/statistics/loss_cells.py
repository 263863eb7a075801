"""Computes loss and KL divergence by context length or position.

A cell is a context length or a bin of positions. Intervals are over documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner_compare.metrics.likelihoods import KL, LOSS
from runner_compare.statistics.ratios import compute_ratio_interval, ratio_of_sums


def compute_loss_and_kl_metrics(
    metric_suffix: str, tokens: Sequence[float], nats: Sequence[float], kls: Sequence[float | None]
) -> dict[str, float]:
    """Return loss and KL divergence as metrics with intervals.

    The KL divergence is omitted if a document has none.
    """
    losses = [-of_text for of_text in nats]
    found = {f"n{metric_suffix}": float(len(tokens)), f"{LOSS}{metric_suffix}": ratio_of_sums(losses, tokens)}
    found |= _interval_metrics(LOSS, metric_suffix, losses, tokens)
    known = [kl for kl in kls if kl is not None]
    if len(known) < len(kls):
        return found
    found[f"{KL}{metric_suffix}"] = ratio_of_sums(known, tokens)
    return found | _interval_metrics(KL, metric_suffix, known, tokens)


def _interval_metrics(
    key: str, cell: str, sums: Sequence[float], tokens: Sequence[float]
) -> dict[str, float]:
    ends = compute_ratio_interval(sums, tokens, lower=0.0)
    return {} if ends is None else {f"{key}_low{cell}": ends[0], f"{key}_high{cell}": ends[1]}


def list_measured_positions(metrics: Mapping[str, float], key_prefix: str) -> list[int]:
    begin = f"{LOSS}/{key_prefix}"
    return sorted(int(key.removeprefix(begin)) for key in metrics if key.startswith(begin))


def build_loss_curves(
    metrics: Mapping[str, float], key_prefix: str, axis_name: str
) -> dict[str, list[tuple[int, float]]]:
    cells = list_measured_positions(metrics, key_prefix)
    curves = {
        f"{name}_by_{axis_name}": [
            (number, metrics[f"{key}/{key_prefix}{number}"])
            for number in cells
            if f"{key}/{key_prefix}{number}" in metrics
        ]
        for name, key in (("loss", LOSS), ("kl", KL))
    }
    return {name: points for name, points in curves.items() if points}
