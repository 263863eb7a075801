"""Per-token divergence of a model from a reference model, as in llama-perplexity, with intervals.

Intervals are over texts: means have the conservative intervals of ratios, percentiles those
of token_percentiles.py. Where the reference stored only some tokens, each token has a lower
and an upper bound, and so has each percentile: the interval then contains both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner_compare.metrics import DELTA_P_SHARES, KL_SHARES
from runner_compare.statistics.accuracy_intervals import compute_clustered_proportion_interval
from runner_compare.statistics.ratios import MIN_TEXTS, compute_ratio_interval, ratio_of_sums
from runner_compare.statistics.token_percentiles import TokenValues

CHIEF = "kl_p999_nats"  # which every job with figures of tokens has
AT_MOST = "_at_most"  # of a figure that is a lower bound: the upper one
OF_CATEGORY = ("kl_median_nats", "kl_p99_nats", "kl_p999_nats", "kl_max_nats")
Ends = tuple[float, float] | None


@dataclass
class TextTokens:
    """KL divergences and log-probabilities of the tokens of one text or cluster of texts."""

    category: str | None = None
    # KL(reference || this) in nats, or a lower bound
    least: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)  # an upper bound; empty: `least` is exact
    logprobs: list[float] = field(default_factory=list)  # of the text's tokens under this model
    # under the reference; empty: it did not keep them
    reference: list[float] = field(default_factory=list)
    agreed: int = 0  # positions in which both have the same first choice


def compute_divergence_metrics(texts: Sequence[TextTokens]) -> dict[str, float]:
    """Return the divergence metrics of all texts. The main metrics also exist per category, as
    `METRIC/CATEGORY`.
    """
    job_figures = {
        **_compute_kl_percentile_metrics(texts),
        **_compute_probability_metrics(texts),
        **_compute_top_1_agreement(texts),
    }
    for name, some in group_texts_by_category(texts).items():
        sizes = [float(len(text.least)) for text in some]
        sums = [math.fsum(text.least) for text in some]
        found = {"n": float(len(some)), "scored_tokens": sum(sizes)} | {
            key: value
            for key, value in _compute_kl_percentile_metrics(some).items()
            if key.startswith(OF_CATEGORY)
        }
        if not any(text.most for text in some):
            found |= _with_interval(
                "kl_nats_per_token",
                ratio_of_sums(sums, sizes),
                compute_ratio_interval(sums, sizes, lower=0.0),
            )
        found |= _compute_top_1_agreement(some)
        job_figures |= {f"{key}/{name}": value for key, value in found.items()}
    return job_figures


def group_texts_by_category(texts: Iterable[TextTokens]) -> dict[str, list[TextTokens]]:
    """Group texts by category; {} with fewer than two categories.

    Replaces characters that are invalid in metric names.
    """
    found: dict[str, list[TextTokens]] = {}
    for text in texts:
        if text.category is not None:
            found.setdefault(re.sub(r"[^\w.\- ]", "_", text.category), []).append(text)
    return found if len(found) > 1 else {}


def _compute_kl_percentile_metrics(texts: Sequence[TextTokens]) -> dict[str, float]:
    least = TokenValues([text.least for text in texts])
    most = TokenValues([text.most for text in texts]) if any(text.most for text in texts) else None
    found: dict[str, float] = {}
    for key, share in KL_SHARES.items():
        ends = _percentile_interval(texts, least, share)
        found[key] = least.percentile(share)
        if most is not None:
            found[key + AT_MOST] = most.percentile(share)
            others = _percentile_interval(texts, most, share)
            ends = (ends[0], others[1]) if ends and others else None
        found |= _with_interval(key, found[key], ends)
    found["kl_max_nats"] = float(least.ordered[-1])
    return found | ({"kl_max_nats" + AT_MOST: float(most.ordered[-1])} if most is not None else {})


def _compute_probability_metrics(texts: Sequence[TextTokens]) -> dict[str, float]:
    if not all(text.reference for text in texts):
        return {}
    import numpy as np

    pairs = [(np.asarray(text.logprobs), np.asarray(text.reference)) for text in texts]
    differences = [np.exp(logprobs) - np.exp(reference) for logprobs, reference in pairs]
    sizes = [float(len(difference)) for difference in differences]
    sums, squares = (
        [float(token_values.sum()) for token_values in some]
        for some in (differences, [difference**2 for difference in differences])
    )
    losses = [float((reference - logprobs).sum()) for logprobs, reference in pairs]
    square_ends = compute_ratio_interval(squares, sizes, lower=0.0)
    values = TokenValues(differences)
    found = _with_interval("delta_p_mean", ratio_of_sums(sums, sizes), compute_ratio_interval(sums, sizes))
    found |= _with_interval(
        "delta_p_rms",
        math.sqrt(ratio_of_sums(squares, sizes)),
        None if square_ends is None else (math.sqrt(square_ends[0]), math.sqrt(square_ends[1])),
    )
    for key, share in DELTA_P_SHARES.items():
        found |= _with_interval(key, values.percentile(share), _percentile_interval(texts, values, share))
    found |= {"delta_p_smallest": float(values.ordered[0]), "delta_p_largest": float(values.ordered[-1])}
    found |= _with_interval(
        "ln_ppl_ratio", ratio_of_sums(losses, sizes), compute_ratio_interval(losses, sizes)
    )
    correlation = compute_logprob_correlation(*(np.concatenate(some) for some in zip(*pairs, strict=True)))
    return found | ({} if correlation is None else {"ln_ppl_correlation": correlation})


def _compute_top_1_agreement(texts: Sequence[TextTokens]) -> dict[str, float]:
    """Return the fraction of positions where both models predict the same most likely token, with
    its interval.

    The interval is not Student's, which covers too little where nearly all agree.
    """
    agreed = [float(text.agreed) for text in texts]
    sizes = [float(len(text.least)) for text in texts]
    ends = compute_clustered_proportion_interval(agreed, sizes) if len(texts) >= MIN_TEXTS else None
    return _with_interval("top_1_agreement", ratio_of_sums(agreed, sizes), ends)


def _percentile_interval(texts: Sequence[TextTokens], values: TokenValues, fraction: float) -> Ends:
    return values.compute_interval(fraction) if len(texts) >= MIN_TEXTS else None


def _with_interval(key: str, value: float, interval: Ends) -> dict[str, float]:
    return {key: value} | (
        {} if interval is None else {f"{key}_low": interval[0], f"{key}_high": interval[1]}
    )


def compute_logprob_correlation(logprobs: Any, reference: Any) -> float | None:
    """Return the correlation of both models' token log-probabilities; None if one is constant.

    It has no interval: a jackknife over texts misses the truth too often where few tokens are
    far off (tails_null.py).
    """
    import numpy as np

    if np.array_equal(logprobs, reference):
        return 1.0
    centred, centred_reference = (
        values - values.mean() for values in (logprobs.astype(np.float64), reference.astype(np.float64))
    )
    spread = math.sqrt(float((centred**2).sum()) * float((centred_reference**2).sum()))
    return float((centred * centred_reference).sum()) / spread if spread > 0 else None


# ------------------------------------------------------------------------------------------- tables


def list_categories(metrics: Mapping[str, float]) -> list[str]:
    return [key.removeprefix(CHIEF + "/") for key in metrics if key.startswith(CHIEF + "/")]
