"""Loss and KL divergence per cell (a context length or a position bin), with intervals over
documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner_compare.metrics.likelihoods import KL, LOSS
from runner_compare.statistics.ratios import ratio_interval, ratio_of_sums


def loss_and_kl_metrics(
    cell: str, tokens: Sequence[float], nats: Sequence[float], kls: Sequence[float | None]
) -> dict[str, float]:
    """Return the loss and, if every document has one, the KL divergence of a cell, with intervals."""
    losses = [-of_text for of_text in nats]
    found = {f"n{cell}": float(len(tokens)), f"{LOSS}{cell}": ratio_of_sums(losses, tokens)}
    found |= _interval_metrics(LOSS, cell, losses, tokens)
    known = [kl for kl in kls if kl is not None]
    if len(known) < len(kls):
        return found
    found[f"{KL}{cell}"] = ratio_of_sums(known, tokens)
    return found | _interval_metrics(KL, cell, known, tokens)


def _interval_metrics(
    key: str, cell: str, sums: Sequence[float], tokens: Sequence[float]
) -> dict[str, float]:
    ends = ratio_interval(sums, tokens, lower=0.0)
    return {} if ends is None else {f"{key}_low{cell}": ends[0], f"{key}_high{cell}": ends[1]}


def list_cells(metrics: Mapping[str, float], kind: str) -> list[int]:
    """Return the numbers (context lengths or positions) of the cells that have metrics, lowest
    first.
    """
    begin = f"{LOSS}/{kind}"
    return sorted(int(key.removeprefix(begin)) for key in metrics if key.startswith(begin))


def loss_curves(metrics: Mapping[str, float], kind: str, axis: str) -> dict[str, list[tuple[int, float]]]:
    cells = list_cells(metrics, kind)
    curves = {
        f"{name}_by_{axis}": [
            (number, metrics[f"{key}/{kind}{number}"])
            for number in cells
            if f"{key}/{kind}{number}" in metrics
        ]
        for name, key in (("loss", LOSS), ("kl", KL))
    }
    return {name: points for name, points in curves.items() if points}
