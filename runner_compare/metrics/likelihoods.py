"""Metrics of how likely given texts are, and how far a model is from a reference."""

from __future__ import annotations

from runner_compare.metrics.kinds import Better, Metric, Pooling, counts, metric, with_ends

LOG_LIKELIHOOD = "log_likelihood_nats_per_token"
# What log-likelihoods are divided by: the first of these that a run has. lm-eval counts bytes and
# texts, not tokens.
LOG_LIKELIHOODS = {
    "token": LOG_LIKELIHOOD,
    "byte": "log_likelihood_nats_per_byte",
    "text": "log_likelihood_nats_per_text",
}
KL = "kl_nats_per_token"
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
    *counts(Better.neither, "scored_tokens", "scored_bytes"),
    # so few that what was drawn does not show how exact the KL is
    *counts(Better.neither, "kl_drawn_tokens"),
    *with_ends(
        LOG_LIKELIHOOD,
        "log-likelihood",
        ".5f",
        Better.higher,
        unit="nats/token",
        head_words="log-likelihood\nnats/token",
    ),
    *with_ends("log_likelihood_nats_per_byte", "log-likelihood", ".5f", Better.higher, unit="nats/byte"),
    *with_ends("log_likelihood_nats_per_text", "log-likelihood", ".4f", Better.higher, unit="nats/text"),
    *with_ends("bits_per_token", "", ".4f", Better.lower),
    *with_ends("bits_per_byte", "", ".4f", Better.lower, head_words="bits\n/byte"),
    *with_ends("perplexity", "", ".4f", Better.lower),
    *with_ends(LOSS, "loss", ".4f", Better.lower, unit="nats/token"),
    *with_ends(GAIN, "gain of context", ".4f", Better.higher, unit="nats/token"),
    metric(GAIN_P, "p of the gain of context", ".2g", pooling=Pooling.dropped),
    metric(HELPS_UP_TO, "more context helps up to", ",.0f", unit="tokens", better=Better.higher),
    *with_ends("rank_1_share", "first choice of the model", ".2%", Better.higher),
    *with_ends(
        "kl_nats_per_token",
        "KL to the reference",
        ".3g",
        Better.lower,
        unit="nats/token",
        head_words="KL\nnats/token",
    ),
    metric(
        "kl_truncation_nats_per_token",
        "KL beyond the kept tokens",
        ".2g",
        better=Better.lower,
        unit="nats/token",
    ),
    metric(
        "kl_drawing_error_nats_per_token",
        "KL by drawn tokens, ±",
        ".2g",
        better=Better.lower,
        unit="nats/token",
    ),
    *with_ends("top_1_agreement", "top-1 agreement", ".2%", Better.higher, head_words="top-1\nagrees"),
    *(share for key in (*KL_SHARES, "kl_max_nats") for share in with_ends(key, "", ".3g", Better.lower)),
    *(
        metric(f"{key}_at_most", unit="nats", form=".3g", better=Better.lower, pooling=Pooling.dropped)
        for key in (*KL_SHARES, "kl_max_nats")
    ),
    *(
        delta
        for key in ("delta_p_mean", "delta_p_rms", *DELTA_P_SHARES, "delta_p_smallest", "delta_p_largest")
        for delta in with_ends(key, "", ".3%", Better.neither)
    ),
    *with_ends("ln_ppl_ratio", "ln(PPL / the reference's)", ".4f", Better.lower),
    metric("ln_ppl_correlation", "correlation of log-likelihoods", ".2%", pooling=Pooling.dropped),
    *with_ends("acc", "", ".1%", Better.higher),
    *with_ends("acc_norm", "acc by characters", ".1%", Better.higher),
    *with_ends("acc_bytes", "acc by bytes", ".1%", Better.higher),
    *with_ends("acc_tokens", "acc by tokens", ".1%", Better.higher),
)
