"""Intervals of what a right answer costs, over questions: tokens, seconds, money and joules.

A job measures its seconds, its money and its joules as one sum. What a question has of them follows
from its tokens: prompt tokens share one part of the sum, new tokens the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from runner_compare.features.token_costs.compute import cells_of, costs_by_seed
from runner_compare.model.data import NotPaired, Run
from runner_compare.reader import Reader
from runner_compare.statistics.answer_times import answer_times
from runner_compare.statistics.token_costs import Estimate, TokenCells, right_answer_cost

PREFILL, DECODE = "energy_prefill_j", "energy_decode_j"
PRICES = "model.price_in", "model.price_out"


def estimate_costs(run: Run, reader: Reader, costs: Mapping[str, float]) -> dict[str, Estimate]:
    """Return the costs of a right answer with their intervals; empty where the tokens of questions
    are unknown."""
    if run.interval is None or "n_all" in run.metrics:
        return {}  # more was asked than counts
    try:
        by_seed = costs_by_seed(run, reader)
    except NotPaired:
        return {}
    cells = cells_of(by_seed, sorted(by_seed[0]))
    accuracy = Estimate(*run.interval)
    estimates = {
        key: right_answer_cost(cells, accuracy, cost, prompt_part(run, key, cells))
        for key, cost in costs.items()
    }
    return {key: estimate for key, estimate in estimates.items() if estimate is not None}


def prompt_part(run: Run, cost: str, cells: TokenCells) -> float:
    """Return the part of a cost that is due to prompt tokens; that of all tokens if nothing else is
    known."""
    prompt, new = (fmean(map(fmean, side)) for side in (cells.prompt, cells.new))
    parts = prompt, new
    times = answer_times(run.metrics)
    if cost in ("money", "usd") and all(run.params.get(key) for key in PRICES):
        price_in, price_out = (float(run.params[key]) for key in PRICES)
        parts = prompt * price_in, new * price_out
    elif cost in ("joules", "money") and {PREFILL, DECODE} <= run.metrics.keys():
        parts = run.metrics[PREFILL], run.metrics[DECODE]
    elif cost != "tokens" and times is not None:
        parts = times.prompts_s + times.beginnings_s, times.decode_s
    return parts[0] / sum(parts) if sum(parts) > 0 else 0.0
