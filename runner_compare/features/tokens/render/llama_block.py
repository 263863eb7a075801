"""Formats a job's token statistics exactly as llama-perplexity --kl-divergence prints them.

The arithmetic is llama.cpp's: float32 where it has float, a standard error as if tokens
were independent, percentiles interpolated between tokens. So a published table can be
compared line by line; the intervals of this project are elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

LEAST = 100  # tokens: of fewer, llama.cpp prints no statistics
TOO_FEW = f"llama.cpp prints statistics only for at least {LEAST} tokens"
KLD = (
    ("99.9%   KLD", 0.999),
    ("99.0%   KLD", 0.99),
    ("95.0%   KLD", 0.95),
    ("90.0%   KLD", 0.9),
    ("Median  KLD", None),
    ("10.0%   KLD", 0.1),
    (" 5.0%   KLD", 0.05),
    (" 1.0%   KLD", 0.01),
    (" 0.1%   KLD", 0.001),
)
DELTA_P = (
    ("99.9%   Δp", 0.999),
    ("99.0%   Δp", 0.99),
    ("95.0%   Δp", 0.95),
    ("90.0%   Δp", 0.9),
    ("75.0%   Δp", 0.75),
    ("Median  Δp", None),
    ("25.0%   Δp", 0.25),
    ("10.0%   Δp", 0.1),
    (" 5.0%   Δp", 0.05),
    (" 1.0%   Δp", 0.01),
    (" 0.1%   Δp", 0.001),
)


def format_llama_perplexity_statistics(
    kl_per_token: Sequence[float],
    logprobs: Sequence[float],
    reference_logprobs: Sequence[float],
    num_same_top_token: int,
) -> str:
    """Format the statistics that llama-perplexity prints, computed from the values of each token.

    `num_same_top_token` counts tokens at which both models have the same most probable token.
    """
    import numpy as np

    count = len(kl_per_token)
    if count < LEAST:
        return TOO_FEW
    nll, base = (-np.asarray(some, dtype=np.float32) for some in (logprobs, reference_logprobs))
    change = np.exp(-nll) - np.exp(-base)
    squares = (change * change).astype(np.float64)
    divergence = np.asarray(kl_per_token, dtype=np.float64)
    (ppl_log, ppl_error), (base_log, base_error) = (
        _compute_mean_and_error(losses, losses * losses) for losses in (nll, base)
    )
    covariance = (_sum_float64(nll * base) / count - ppl_log * base_log) / (count - 1)
    ratio, ratio_error = ppl_log - base_log, _safe_sqrt(ppl_error**2 + base_error**2 - 2 * covariance)
    ppl, of_base = math.exp(ppl_log), math.exp(base_log)
    gap_error = _safe_sqrt(
        (ppl * ppl_error) ** 2 + (of_base * base_error) ** 2 - 2 * ppl * of_base * covariance
    )
    correlation = covariance / (ppl_error * base_error) if ppl_error * base_error else math.nan
    kl_mean, kl_error = _compute_mean_and_error(divergence, divergence**2)
    p_mean, p_error = _compute_mean_and_error(change, squares)
    mse, mse_error = _compute_mean_and_error(squares, squares**2)
    rms, same = math.sqrt(mse), num_same_top_token / count
    rms_error = 0.5 / rms * mse_error if rms else math.nan
    kls, changes = np.sort(divergence.astype(np.float32)), np.sort(change)
    lines = [
        "====== Perplexity statistics ======",
        f"Mean PPL(Q)                   : {ppl:10.6f} ± {ppl * ppl_error:10.6f}",
        f"Mean PPL(base)                : {of_base:10.6f} ± {of_base * base_error:10.6f}",
        f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * correlation:6.2f}%",
        f"Mean ln(PPL(Q)/PPL(base))     : {ratio:10.6f} ± {ratio_error:10.6f}",
        f"Mean PPL(Q)/PPL(base)         : {math.exp(ratio):10.6f} ± {math.exp(ratio) * ratio_error:10.6f}",
        f"Mean PPL(Q)-PPL(base)         : {ppl - of_base:10.6f} ± {gap_error:10.6f}",
        "",
        "====== KL divergence statistics ======",
        f"Mean    KLD: {kl_mean:10.6f} ± {kl_error:10.6f}",
        f"Maximum KLD: {kls[-1]:10.6f}",
        *(f"{name}: {_compute_percentile(kls, share):10.6f}" for name, share in KLD),
        f"Minimum KLD: {kls[0]:10.6f}",
        "",
        "====== Token probability statistics ======",
        f"Mean    Δp: {100 * p_mean:6.3f} ± {100 * p_error:5.3f} %",
        f"Maximum Δp: {100 * float(changes[-1]):6.3f}%",
        *(f"{name}: {100 * _compute_percentile(changes, share):6.3f}%" for name, share in DELTA_P),
        f"Minimum Δp: {100 * float(changes[0]):6.3f}%",
        f"RMS Δp    : {100 * rms:6.3f} ± {100 * rms_error:5.3f} %",
        f"Same top p: {100 * same:6.3f} ± {100 * math.sqrt(same * (1 - same) / (count - 1)):5.3f} %",
    ]
    return "\n".join(lines)


def _sum_float64(values: Any) -> float:
    import numpy as np

    return float(values.sum(dtype=np.float64))


def _compute_mean_and_error(values: Any, squares: Any) -> tuple[float, float]:
    """Return the mean of values and its standard error. `squares` contains the squared values.

    The squares may be rounded to float32.
    """
    count = len(values)
    mean = _sum_float64(values) / count
    variance = _sum_float64(squares) / count - mean * mean
    return mean, math.sqrt(variance / (count - 1)) if variance > 0 else 0.0


def _safe_sqrt(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _compute_percentile(sorted_values: Any, fraction: float | None) -> float:
    """Return a percentile of sorted float32 values; `fraction=None` means the median."""
    import numpy as np

    count = len(sorted_values)
    if fraction is None:
        half = count // 2
        return float(
            sorted_values[half]
            if count % 2
            else np.float32(0.5) * (sorted_values[half] + sorted_values[half - 1])
        )
    position = np.float32(fraction) * np.float32(count - 1)
    first = int(position)
    part = position - np.float32(first)
    return float(
        (np.float32(1) - part) * sorted_values[first] + part * sorted_values[min(first + 1, count - 1)]
    )
