"""Loss and KL in cells of a table, each with its interval over texts: a cell is a context or a bin
of positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runner_compare.metrics.likelihoods import KL, LOSS
from runner_compare.statistics.ratios import MIN_TEXTS, paired_interval, ratio, ratio_interval


def loss_and_kl(
    cell: str, tokens: Sequence[float], nats: Sequence[float], kls: Sequence[float | None]
) -> dict[str, float]:
    """Return the figures of a cell from its texts: their tokens, log-likelihoods, and KL where all
    have one."""
    losses = [-of_text for of_text in nats]
    found = {f"n{cell}": float(len(tokens)), f"{LOSS}{cell}": ratio(losses, tokens)}
    if len(tokens) > 1:
        low, high = ratio_interval(losses, tokens)
        found |= {f"{LOSS}_low{cell}": max(low, 0.0), f"{LOSS}_high{cell}": high}
    known = [kl for kl in kls if kl is not None]
    if len(known) < len(kls):
        return found
    found[f"{KL}{cell}"] = ratio(known, tokens)
    if len(known) >= MIN_TEXTS and all(map(math.isfinite, known)):  # as that of the whole job
        low, high = paired_interval(known, tokens)
        found |= {f"{KL}_low{cell}": max(low, 0.0), f"{KL}_high{cell}": high}
    return found


def cells_in(figures: Mapping[str, float], kind: str) -> list[int]:
    """Return the numbers of the cells of a kind that there are figures of, lowest first."""
    begin = f"{LOSS}/{kind}"
    return sorted(int(key.removeprefix(begin)) for key in figures if key.startswith(begin))


def curves_over(
    figures: Mapping[str, float], kind: str, axis: str
) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of loss and KL over the cells of a kind."""
    cells = cells_in(figures, kind)
    curves = {
        f"{name}_by_{axis}": [
            (number, figures[f"{key}/{kind}{number}"])
            for number in cells
            if f"{key}/{kind}{number}" in figures
        ]
        for name, key in (("loss", LOSS), ("kl", KL))
    }
    return {name: points for name, points in curves.items() if points}
