"""Confidence intervals of the cost per correct answer (tokens, time, money, energy), over questions.

A job measures its seconds, money and joules as one sum. Each question's part follows from
its tokens: prompt tokens share one part of the sum, new tokens the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from runner_compare.features.token_costs.compute import build_token_count_matrices, load_costs_by_seed
from runner_compare.model.data import NotPaired, Run
from runner_compare.reader import Reader
from runner_compare.statistics.answer_times import estimate_answer_times
from runner_compare.statistics.token_costs import Estimate, TokenCells, estimate_cost_per_correct_answer

PREFILL, DECODE = "energy_prefill_j", "energy_decode_j"
PRICES = "model.price_in", "model.price_out"


def estimate_costs_per_correct_answer(
    run: Run, reader: Reader, known_costs: Mapping[str, float]
) -> dict[str, Estimate]:
    """Return each cost per correct answer with its interval; {} if tokens per question are unknown."""
    if run.accuracy_interval is None or "n_all" in run.metrics:
        return {}  # more was asked than counts
    try:
        by_seed = load_costs_by_seed(run, reader)
    except NotPaired:
        return {}
    cells = build_token_count_matrices(by_seed, sorted(by_seed[0]))
    accuracy = Estimate(*run.accuracy_interval)
    estimates = {
        key: estimate_cost_per_correct_answer(
            cells, accuracy, cost, compute_prompt_cost_fraction(run, key, cells)
        )
        for key, cost in known_costs.items()
    }
    return {key: estimate for key, estimate in estimates.items() if estimate is not None}


def compute_prompt_cost_fraction(run: Run, cost_key: str, token_cells: TokenCells) -> float:
    """Return the fraction of a cost that prompt tokens cause.

    The default is the fraction of prompt tokens among all tokens.
    """
    prompt, new = (fmean(map(fmean, side)) for side in (token_cells.prompt, token_cells.new))
    parts = prompt, new
    times = estimate_answer_times(run.metrics)
    if cost_key in ("money", "usd") and all(run.params.get(key) for key in PRICES):
        price_in, price_out = (float(run.params[key]) for key in PRICES)
        parts = prompt * price_in, new * price_out
    elif cost_key in ("joules", "money") and {PREFILL, DECODE} <= run.metrics.keys():
        parts = run.metrics[PREFILL], run.metrics[DECODE]
    elif cost_key != "tokens" and times is not None:
        parts = times.prompts_s + times.beginnings_s, times.decode_s
    return parts[0] / sum(parts) if sum(parts) > 0 else 0.0
