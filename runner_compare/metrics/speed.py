"""Definitions of metrics about speed, time and energy."""

from __future__ import annotations

from typing import Any

from runner_base.spreads import RANKS
from runner_compare.metrics.metric_types import (
    BetterDirection,
    Metric,
    PoolingRule,
    define_counts,
    define_metric,
    define_metric_with_interval,
)

OF_RIGHT_ANSWERS: dict[str, Any] = {
    "better": BetterDirection.lower,
    "pooling": PoolingRule.weighted,
    "tokens": "correct",
}
METRICS: tuple[Metric, ...] = (
    # speed
    define_metric(
        "prefill_tok_per_s", form=",.0f", pooling=PoolingRule.per_token, tokens="computed_prompt_tokens"
    ),
    define_metric(
        "decode_tok_per_s",
        "",
        ",.0f",
        pooling=PoolingRule.per_token,
        tokens="new_tokens",
        axis_words="decode tokens/s",
    ),
    define_metric("best_decode_tok_per_s", form=",.0f"),
    *(define_metric(key, form=".0f") for key in ("best_batch_size", "best_prompt_tokens")),
    define_metric("ttft_s", "time to first token", axis_words="time to first token, s"),
    define_metric("best_ttft_s", "best time to first token"),
    *(define_metric(f"ttft_{rank}_s", f"time to first token {rank}") for rank in RANKS),
    *(define_metric(f"itl_{rank}_s", f"between tokens {rank}") for rank in RANKS),
    *(define_metric(f"{phase}_gflop_per_s", form=",.1f") for phase in ("prefill", "decode")),
    define_metric("decode_gb_per_s", "decoding reads", ",.1f"),
    define_metric("matrix_gflop_per_s", "matrix rate of the machine", ",.0f", better=BetterDirection.neither),
    define_metric("read_gb_per_s", "bandwidth of the machine", ",.1f", better=BetterDirection.neither),
    define_metric("prefill_matrix_share", "prefill of the matrix rate", ".0%", better=BetterDirection.higher),
    define_metric("decode_read_share", "decode of the bandwidth", ".0%", better=BetterDirection.higher),
    define_metric("decode_matrix_share", "decode of the matrix rate", ".0%", better=BetterDirection.higher),
    define_metric("energy_j", "energy", ",.1f", pooling=PoolingRule.sum),
    define_metric("energy_j_per_token", "energy", ".3g"),
    define_metric("energy_net_j", "energy without idling", ",.1f", pooling=PoolingRule.sum),
    define_metric("energy_prefill_j", "energy of prefill", ",.1f", pooling=PoolingRule.sum),
    define_metric("energy_decode_j", "energy of decode", ",.1f", pooling=PoolingRule.sum),
    define_metric("energy_wh", "energy", ".3g", pooling=PoolingRule.sum),
    define_metric("energy_cost", "energy cost", ".4g", better=BetterDirection.lower, pooling=PoolingRule.sum),
    define_metric("idle_w", "idle power", ".1f", better=BetterDirection.neither),
    define_metric(
        "joules_per_question",
        "J a question",
        ".3g",
        better=BetterDirection.lower,
        pooling=PoolingRule.weighted,
        tokens="n",
        axis_words="energy of a question, J",
        head_words="J\n/question",
    ),
    define_metric("joules_per_right_answer", "J a right answer", ".3g", **OF_RIGHT_ANSWERS),
    define_metric("energy_cost_per_right_answer", form=".3g", **OF_RIGHT_ANSWERS),
    define_metric("right_answer_s", "time of a right answer", ".3g", **OF_RIGHT_ANSWERS),
    # of a sweep with guesses at every step, against none by turns
    define_metric("off_decode_tok_per_s", "decode without guesses", ",.0f"),
    *define_metric_with_interval("speculation_gain", "gain of guessed tokens", ".3f", BetterDirection.higher),
    define_metric("noise", "quartiles of the speed apart", ".0%", better=BetterDirection.lower),
    *define_counts(BetterDirection.neither, "cells"),
    *define_counts(BetterDirection.lower, "cells_not_measured", "noisy_cells"),
    *define_counts(BetterDirection.neither, "differing_answers"),
    define_metric("offered_requests_per_s", form=".3g", better=BetterDirection.neither),
    define_metric("answered_requests_per_s", "answers", ".3g"),
    define_metric("knee_requests_per_s", "knee", ".3g"),
    define_metric("load_s", form=".2f"),
    define_metric("merge_s", "merging of the adapter", ".2f"),
    define_metric("import_s"),
    define_metric("kernels_build_s"),
    define_metric("seconds", form=",.1f", better=BetterDirection.lower, pooling=PoolingRule.sum),
    define_metric("repeats"),
    define_metric("output_tok_per_s", form=",.0f"),
    # from other tools: the prompt alone, prompt and answer together, a batch from its start to its
    # end
    define_metric("prompt_tok_per_s", form=",.0f"),
    define_metric("total_tok_per_s", form=",.0f"),
    define_metric("batch_latency_s"),
    define_metric("best_output_tok_per_s", form=",.0f"),
)
