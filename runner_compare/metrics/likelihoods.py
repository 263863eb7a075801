"""Definitions of metrics about text likelihoods and the divergence from a reference model."""

from __future__ import annotations

from runner_compare.metrics.metric_types import (
    BetterDirection,
    Metric,
    PoolingRule,
    define_counts,
    define_metric,
    define_metric_with_interval,
)

LOG_LIKELIHOOD = "log_likelihood_nats_per_token"
# What log-likelihoods are divided by: the first of these that a run has. lm-eval counts bytes and
# texts, not tokens.
LOG_LIKELIHOODS = {
    "token": LOG_LIKELIHOOD,
    "byte": "log_likelihood_nats_per_byte",
    "text": "log_likelihood_nats_per_text",
}
KL = "kl_nats_per_token"
AGREEMENT = "top_1_agreement"
# by position and by context (LOSS/position_512, LOSS/context_1024): the loss is what the
# log-likelihood lacks to 0
LOSS = "loss_nats_per_token"
# of a context over the next shorter one
GAIN, GAIN_P = "context_gain_nats_per_token", "context_gain_p"
HELPS_UP_TO = "context_helps_up_to_tokens"
# percentiles over tokens: the divergence from the reference, and the change of the text's tokens'
# own probabilities
KL_SHARES = {
    "kl_median_nats": 0.5,
    "kl_p90_nats": 0.9,
    "kl_p95_nats": 0.95,
    "kl_p99_nats": 0.99,
    "kl_p999_nats": 0.999,
}
DELTA_P_SHARES = {
    **{f"delta_p_p{digits}": float(f"0.{digits}") for digits in ("001", "01", "05", "10", "25")},
    "delta_p_median": 0.5,
    **{f"delta_p_p{digits}": float(f"0.{digits}") for digits in ("75", "90", "95", "99", "999")},
}

METRICS: tuple[Metric, ...] = (
    # how likely given texts are
    *define_counts(BetterDirection.neither, "scored_tokens", "scored_bytes"),
    # so few that what was drawn does not show how exact the KL is
    *define_counts(BetterDirection.neither, "kl_drawn_tokens"),
    *define_metric_with_interval(
        LOG_LIKELIHOOD,
        "log-likelihood",
        ".5f",
        BetterDirection.higher,
        unit="nats/token",
        head_words="log-likelihood\nnats/token",
    ),
    *define_metric_with_interval(
        "log_likelihood_nats_per_byte", "log-likelihood", ".5f", BetterDirection.higher, unit="nats/byte"
    ),
    *define_metric_with_interval(
        "log_likelihood_nats_per_text", "log-likelihood", ".4f", BetterDirection.higher, unit="nats/text"
    ),
    *define_metric_with_interval("bits_per_token", "", ".4f", BetterDirection.lower),
    *define_metric_with_interval("bits_per_byte", "", ".4f", BetterDirection.lower, head_words="bits\n/byte"),
    *define_metric_with_interval("perplexity", "", ".4f", BetterDirection.lower),
    *define_metric_with_interval(LOSS, "loss", ".4f", BetterDirection.lower, unit="nats/token"),
    *define_metric_with_interval(GAIN, "gain of context", ".4f", BetterDirection.higher, unit="nats/token"),
    define_metric(GAIN_P, "p of the gain of context", ".2g", pooling=PoolingRule.dropped),
    define_metric(
        HELPS_UP_TO, "more context helps up to", ",.0f", unit="tokens", better=BetterDirection.higher
    ),
    *define_metric_with_interval("rank_1_share", "first choice of the model", ".2%", BetterDirection.higher),
    *define_metric_with_interval(
        "kl_nats_per_token",
        "KL to the reference",
        ".3g",
        BetterDirection.lower,
        unit="nats/token",
        head_words="KL\nnats/token",
    ),
    define_metric(
        "kl_truncation_nats_per_token",
        "KL beyond the kept tokens",
        ".2g",
        better=BetterDirection.lower,
        unit="nats/token",
    ),
    define_metric(
        "kl_drawing_error_nats_per_token",
        "KL by drawn tokens, ±",
        ".2g",
        better=BetterDirection.lower,
        unit="nats/token",
    ),
    *define_metric_with_interval(
        AGREEMENT, "top-1 agreement", ".2%", BetterDirection.higher, head_words="top-1\nagrees"
    ),
    *(
        share
        for key in (*KL_SHARES, "kl_max_nats")
        for share in define_metric_with_interval(key, "", ".3g", BetterDirection.lower)
    ),
    *(
        define_metric(
            f"{key}_at_most",
            unit="nats",
            form=".3g",
            better=BetterDirection.lower,
            pooling=PoolingRule.dropped,
        )
        for key in (*KL_SHARES, "kl_max_nats")
    ),
    *(
        delta
        for key in ("delta_p_mean", "delta_p_rms", *DELTA_P_SHARES, "delta_p_smallest", "delta_p_largest")
        for delta in define_metric_with_interval(key, "", ".3%", BetterDirection.neither)
    ),
    *define_metric_with_interval("ln_ppl_ratio", "ln(PPL / the reference's)", ".4f", BetterDirection.lower),
    define_metric("ln_ppl_correlation", "correlation of log-likelihoods", ".2%", pooling=PoolingRule.dropped),
    *define_metric_with_interval("acc", "", ".1%", BetterDirection.higher),
    *define_metric_with_interval("acc_norm", "acc by characters", ".1%", BetterDirection.higher),
    *define_metric_with_interval("acc_bytes", "acc by bytes", ".1%", BetterDirection.higher),
    *define_metric_with_interval("acc_tokens", "acc by tokens", ".1%", BetterDirection.higher),
)
