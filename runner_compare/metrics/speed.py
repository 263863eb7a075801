"""Metrics of speed, time and energy, and of the tools that measure them."""

from __future__ import annotations

from typing import Any

from runner_base.spreads import RANKS
from runner_compare.metrics.kinds import Better, Metric, Pooling, counts, metric, with_ends

OF_RIGHT_ANSWERS: dict[str, Any] = {"better": Better.lower, "pooling": Pooling.weighted, "tokens": "correct"}
METRICS: tuple[Metric, ...] = (
    # speed
    metric("prefill_tok_per_s", form=",.0f", pooling=Pooling.per_token, tokens="computed_prompt_tokens"),
    metric(
        "decode_tok_per_s",
        "",
        ",.0f",
        pooling=Pooling.per_token,
        tokens="new_tokens",
        axis_words="decode tokens/s",
    ),
    metric("best_decode_tok_per_s", form=",.0f"),
    *(metric(key, form=".0f") for key in ("best_batch_size", "best_prompt_tokens")),
    metric("ttft_s", "time to first token", axis_words="time to first token, s"),
    metric("best_ttft_s", "best time to first token"),
    *(metric(f"ttft_{rank}_s", f"time to first token {rank}") for rank in RANKS),
    *(metric(f"itl_{rank}_s", f"between tokens {rank}") for rank in RANKS),
    *(metric(f"{phase}_gflop_per_s", form=",.1f") for phase in ("prefill", "decode")),
    metric("decode_gb_per_s", "decoding reads", ",.1f"),
    metric("matrix_gflop_per_s", "matrix rate of the machine", ",.0f", better=Better.neither),
    metric("read_gb_per_s", "bandwidth of the machine", ",.1f", better=Better.neither),
    metric("prefill_matrix_share", "prefill of the matrix rate", ".0%", better=Better.higher),
    metric("decode_read_share", "decode of the bandwidth", ".0%", better=Better.higher),
    metric("decode_matrix_share", "decode of the matrix rate", ".0%", better=Better.higher),
    metric("energy_j", "energy", ",.1f", pooling=Pooling.sum),
    metric("energy_j_per_token", "energy", ".3g"),
    metric("energy_net_j", "energy without idling", ",.1f", pooling=Pooling.sum),
    metric("energy_prefill_j", "energy of prefill", ",.1f", pooling=Pooling.sum),
    metric("energy_decode_j", "energy of decode", ",.1f", pooling=Pooling.sum),
    metric("energy_wh", "energy", ".3g", pooling=Pooling.sum),
    metric("energy_cost", "energy cost", ".4g", better=Better.lower, pooling=Pooling.sum),
    metric("idle_w", "idle power", ".1f", better=Better.neither),
    metric(
        "joules_per_question",
        "J a question",
        ".3g",
        better=Better.lower,
        pooling=Pooling.weighted,
        tokens="n",
        axis_words="energy of a question, J",
        head_words="J\n/question",
    ),
    metric("joules_per_right_answer", "J a right answer", ".3g", **OF_RIGHT_ANSWERS),
    metric("energy_cost_per_right_answer", form=".3g", **OF_RIGHT_ANSWERS),
    metric("right_answer_s", "time of a right answer", ".3g", **OF_RIGHT_ANSWERS),
    # of a sweep with guesses at every step, against none by turns
    metric("off_decode_tok_per_s", "decode without guesses", ",.0f"),
    *with_ends("speculation_gain", "gain of guessed tokens", ".3f", Better.higher),
    metric("noise", "quartiles of the speed apart", ".0%", better=Better.lower),
    *counts(Better.neither, "cells"),
    *counts(Better.lower, "cells_not_measured", "noisy_cells"),
    *counts(Better.neither, "differing_answers"),
    metric("offered_requests_per_s", form=".3g", better=Better.neither),
    metric("answered_requests_per_s", "answers", ".3g"),
    metric("knee_requests_per_s", "knee", ".3g"),
    metric("load_s", form=".2f"),
    metric("merge_s", "merging of the adapter", ".2f"),
    metric("import_s"),
    metric("kernels_build_s"),
    metric("seconds", form=",.1f", better=Better.lower, pooling=Pooling.sum),
    metric("repeats"),
    metric("output_tok_per_s", form=",.0f"),
    # from other tools: the prompt alone, prompt and answer together, a batch from its start to its
    # end
    metric("prompt_tok_per_s", form=",.0f"),
    metric("total_tok_per_s", form=",.0f"),
    metric("batch_latency_s"),
    metric("best_output_tok_per_s", form=",.0f"),
)
