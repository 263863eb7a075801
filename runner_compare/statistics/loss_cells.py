"""Loss and KL in cells of a table, each with its interval over texts: a cell is a context or a bin
of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner_compare.metrics.likelihoods import KL, LOSS
from runner_compare.statistics.ratios import ratio, ratio_interval


def loss_and_kl(
    cell: str, tokens: Sequence[float], nats: Sequence[float], kls: Sequence[float | None]
) -> dict[str, float]:
    """Return the figures of a cell from its texts: their tokens, log-likelihoods, and KL where all
    have one."""
    losses = [-of_text for of_text in nats]
    found = {f"n{cell}": float(len(tokens)), f"{LOSS}{cell}": ratio(losses, tokens)}
    found |= _ends(LOSS, cell, losses, tokens)
    known = [kl for kl in kls if kl is not None]
    if len(known) < len(kls):
        return found
    found[f"{KL}{cell}"] = ratio(known, tokens)
    return found | _ends(KL, cell, known, tokens)


def _ends(key: str, cell: str, sums: Sequence[float], tokens: Sequence[float]) -> dict[str, float]:
    ends = ratio_interval(sums, tokens, least=0.0)
    return {} if ends is None else {f"{key}_low{cell}": ends[0], f"{key}_high{cell}": ends[1]}


def cells_in(figures: Mapping[str, float], kind: str) -> list[int]:
    """Return the numbers of the cells of a kind that there are figures of, lowest first."""
    begin = f"{LOSS}/{kind}"
    return sorted(int(key.removeprefix(begin)) for key in figures if key.startswith(begin))


def curves_over(figures: Mapping[str, float], kind: str, axis: str) -> dict[str, list[tuple[int, float]]]:
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
