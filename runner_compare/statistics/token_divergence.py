"""How far a model is from its reference at each token: the figures of llama-perplexity's table,
with intervals by text.

Means have the cautious intervals of ratios, percentiles those of token_percentiles.py. Where the
reference kept only some tokens, each token has a lower and an upper bound, and so has each
percentile: the interval then holds both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner_compare.metrics import DELTA_P_SHARES, KL_SHARES
from runner_compare.statistics.clustered_share import interval_of_sums
from runner_compare.statistics.ratios import MIN_TEXTS, ratio, ratio_interval
from runner_compare.statistics.token_percentiles import TokenValues

CHIEF = "kl_p999_nats"  # which every job with figures of tokens has
AT_MOST = "_at_most"  # of a figure that is a lower bound: the upper one
OF_CATEGORY = ("kl_median_nats", "kl_p99_nats", "kl_p999_nats", "kl_max_nats")
Ends = tuple[float, float] | None


@dataclass
class TextTokens:
    """The tokens of one text, or of a family of texts."""

    category: str | None = None
    # KL(reference || this) in nats, or a lower bound
    least: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)  # an upper bound; empty: `least` is exact
    logprobs: list[float] = field(default_factory=list)  # of the text's tokens under this model
    # under the reference; empty: it did not keep them
    reference: list[float] = field(default_factory=list)
    agreed: int = 0  # positions in which both have the same first choice


def token_figures(texts: Sequence[TextTokens]) -> dict[str, float]:
    """Return the figures of all texts, and the chief ones of each category as `KEY/CATEGORY`."""
    job_figures = {**_of_kl(texts), **_of_probabilities(texts), **_of_agreement(texts)}
    for name, some in by_category(texts).items():
        sizes = [float(len(text.least)) for text in some]
        sums = [math.fsum(text.least) for text in some]
        found = {"n": float(len(some)), "scored_tokens": sum(sizes)} | {
            key: value for key, value in _of_kl(some).items() if key.startswith(OF_CATEGORY)
        }
        if not any(text.most for text in some):
            found |= _with_ends(
                "kl_nats_per_token", ratio(sums, sizes), ratio_interval(sums, sizes, least=0.0)
            )
        found |= _of_agreement(some)
        job_figures |= {f"{key}/{name}": value for key, value in found.items()}
    return job_figures


def by_category(texts: Iterable[TextTokens]) -> dict[str, list[TextTokens]]:
    """Return the texts of each category, by its name as metrics may have it; empty unless there are
    several."""
    found: dict[str, list[TextTokens]] = {}
    for text in texts:
        if text.category is not None:
            found.setdefault(re.sub(r"[^\w.\- ]", "_", text.category), []).append(text)
    return found if len(found) > 1 else {}


def _of_kl(texts: Sequence[TextTokens]) -> dict[str, float]:
    """Return the percentiles of the divergence and its largest value."""
    least = TokenValues([text.least for text in texts])
    most = TokenValues([text.most for text in texts]) if any(text.most for text in texts) else None
    found: dict[str, float] = {}
    for key, share in KL_SHARES.items():
        ends = _percentile_ends(texts, least, share)
        found[key] = least.percentile(share)
        if most is not None:
            found[key + AT_MOST] = most.percentile(share)
            others = _percentile_ends(texts, most, share)
            ends = (ends[0], others[1]) if ends and others else None
        found |= _with_ends(key, found[key], ends)
    found["kl_max_nats"] = float(least.ordered[-1])
    return found | ({"kl_max_nats" + AT_MOST: float(most.ordered[-1])} if most is not None else {})


def _of_probabilities(texts: Sequence[TextTokens]) -> dict[str, float]:
    """Return how the probabilities of the texts' own tokens have changed."""
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
    square_ends = ratio_interval(squares, sizes, least=0.0)
    values = TokenValues(differences)
    found = _with_ends("delta_p_mean", ratio(sums, sizes), ratio_interval(sums, sizes))
    found |= _with_ends(
        "delta_p_rms",
        math.sqrt(ratio(squares, sizes)),
        None if square_ends is None else (math.sqrt(square_ends[0]), math.sqrt(square_ends[1])),
    )
    for key, share in DELTA_P_SHARES.items():
        found |= _with_ends(key, values.percentile(share), _percentile_ends(texts, values, share))
    found |= {"delta_p_smallest": float(values.ordered[0]), "delta_p_largest": float(values.ordered[-1])}
    found |= _with_ends("ln_ppl_ratio", ratio(losses, sizes), ratio_interval(losses, sizes))
    correlation = correlated(*(np.concatenate(some) for some in zip(*pairs, strict=True)))
    return found | ({} if correlation is None else {"ln_ppl_correlation": correlation})


def _of_agreement(texts: Sequence[TextTokens]) -> dict[str, float]:
    """Return the share of equal first choices; its interval is not Student's, which misses where
    nearly all agree."""
    agreed = [float(text.agreed) for text in texts]
    sizes = [float(len(text.least)) for text in texts]
    ends = interval_of_sums(agreed, sizes) if len(texts) >= MIN_TEXTS else None
    return _with_ends("top_1_agreement", ratio(agreed, sizes), ends)


def _percentile_ends(texts: Sequence[TextTokens], values: TokenValues, share: float) -> Ends:
    return values.interval(share) if len(texts) >= MIN_TEXTS else None


def _with_ends(key: str, value: float, ends: Ends) -> dict[str, float]:
    return {key: value} | ({} if ends is None else {f"{key}_low": ends[0], f"{key}_high": ends[1]})


def correlated(logprobs: Any, reference: Any) -> float | None:
    """Return the correlation of tokens' log-probabilities under both models; None if one of them is
    constant.

    It has no interval: a jackknife over texts misses the truth too often where few tokens are far
    off (tails_null.py).
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


def categories_of(figures: Mapping[str, float]) -> list[str]:
    """Return the categories that have figures of their own."""
    return [key.removeprefix(CHIEF + "/") for key in figures if key.startswith(CHIEF + "/")]
