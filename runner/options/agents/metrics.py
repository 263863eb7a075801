"""Metrics of a team of agents, and of an attack on one of them."""

from __future__ import annotations

from runner_compare import OF_CALLS, Better, Metric
from runner_compare.metrics import kinds

TRAINING = ("before", "after")

METRICS: tuple[Metric, ...] = (
    # a team of agents
    *kinds.counts(Better.lower, "calls", "code_failed"),
    kinds.metric("samples_per_question", "samples a question", ".1f", better=Better.neither),
    kinds.metric("play_s", "playing", ",.1f", pooling=kinds.Pooling.sum),
    *kinds.counts(
        Better.neither,
        *(f"train_{what}" for what in ("questions", "solved", "calls", *OF_CALLS)),
        "match_tokens",
    ),
    kinds.metric(
        "train_cost_usd", "training cost USD", ".4f", better=Better.lower, pooling=kinds.Pooling.sum
    ),
    *kinds.counts(
        Better.neither, *(f"{kind}_edges_{when}" for kind in ("spatial", "temporal") for when in TRAINING)
    ),
    # an attack on one agent of a team
    *kinds.counts(Better.neither, "told_lies", *(f"attacked_{what}" for what in OF_CALLS)),
    *kinds.counts(Better.neither, *(f"attacked_edges_{when}" for when in TRAINING)),
    *kinds.counts(Better.lower, "followed_attack"),
    *kinds.counts(Better.higher, "honest_correct"),
    kinds.metric(
        "honest_accuracy", "the others' vote", ".1%", better=Better.higher, pooling=kinds.Pooling.dropped
    ),
)
