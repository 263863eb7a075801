"""Metrics of a team of agents, and of an attack on one of them."""

from __future__ import annotations

from runner_compare import OF_CALLS, Better, Metric, Pooling, counts, metric

TRAINING = ("before", "after")

METRICS: tuple[Metric, ...] = (
    # a team of agents
    *counts(Better.lower, "calls", "code_failed"),
    metric("samples_per_question", "samples a question", ".1f", better=Better.neither),
    metric("play_s", "playing", ",.1f", pooling=Pooling.sum),
    *counts(Better.neither, *(f"train_{what}" for what in ("questions", "solved", "calls", *OF_CALLS)), "match_tokens"),
    metric("train_cost_usd", "training cost USD", ".4f", better=Better.lower, pooling=Pooling.sum),
    *counts(Better.neither, *(f"{kind}_edges_{when}" for kind in ("spatial", "temporal") for when in TRAINING)),
    # an attack on one agent of a team
    *counts(Better.neither, "told_lies", *(f"attacked_{what}" for what in OF_CALLS)),
    *counts(Better.neither, *(f"attacked_edges_{when}" for when in TRAINING)),
    *counts(Better.lower, "followed_attack"),
    *counts(Better.higher, "honest_correct"),
    metric("honest_accuracy", "the others' vote", ".1%", better=Better.higher, pooling=Pooling.dropped),
)
