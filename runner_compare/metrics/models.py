"""Definitions of metrics about a loaded model and its memory."""

from __future__ import annotations

from runner_compare.metrics.metric_types import BetterDirection, Metric, define_counts, define_metric

METRICS: tuple[Metric, ...] = (
    # the model
    define_metric("file_mib", "file", ",.2f"),
    define_metric("parameters", form=",.0f"),
    define_metric("active_parameters", "parameters that a token uses", ",.0f"),
    define_metric("weight_mib", form=",.2f", head_words="weights\nMiB"),
    *(define_metric(key, form=".0f") for key in ("lora_modules", "lora_rank", "rope_pairs")),
    define_metric("lora_delta_norm", form=".3g"),
    define_metric("quantized_share", "quantized parameters in blocks", ".1%", better=BetterDirection.neither),
    define_metric("quantized_share_of_all", "quantized parameters", ".1%", better=BetterDirection.neither),
    define_metric("quantized_share_of_bytes", "quantized bytes", ".1%", better=BetterDirection.neither),
    define_metric(
        "quantized_share_of_wanted",
        "quantized parameters of those named",
        ".1%",
        better=BetterDirection.neither,
    ),
    *map(
        define_metric, ("quantized_modules", "unquantized_linears", "lora_parameters", "rope_pairs_patched")
    ),
    *map(define_metric, ("vocab_size", "max_positions", "base_loads", "batch_invariant")),
    define_metric(
        "made_for_positions",
        "number of positions that the RoPE setting supports",
        ",.0f",
        better=BetterDirection.neither,
    ),
    define_metric(
        "longest_text_tokens",
        "tokens of the longest prompt with its answer",
        ",.0f",
        better=BetterDirection.neither,
    ),
    define_metric("stored_mib", "on disk"),
    # memory
    define_metric("peak_rss_mib", "peak RSS", ",.0f"),
    define_metric("load_peak_rss_mib", "peak RSS of the load", ",.0f"),
    define_metric("load_rss_mib", "RSS after the load", ",.0f"),
    define_metric("sum_peak_rss_mib", "peak RSS of all processes"),
    define_metric(
        "model_mib",
        "model's memory",
        ",.2f",
        head_words="weights\n+KV+act\nMiB",
        axis_words="weights + KV cache + activations, MiB",
    ),
    define_metric("kv_peak_mib", "KV cache at its peak", ",.2f"),
    define_metric("activation_mib", "activations of the largest pass", ",.2f"),
    define_metric("unpacked_mib", "unpacked copy of a weight", ",.2f"),
    define_metric("cuda_peak_mib", "peak GPU", axis_words="peak GPU memory, MiB"),
    define_metric("gpu_mib", "GPU", ",.0f"),
    define_metric("load_peak_gpu_mib", "peak GPU of the load", ",.0f"),
    *map(
        define_metric, ("cuda_reserved_mib", "cuda_steady_mib", "steady_rss_mib", "rss_growth_mib", "pss_mib")
    ),
    *map(define_metric, ("mapped_files_mib", "baseline_mib", "baseline_anon_mib")),
    *(define_metric(f"{stage}_peak_rss_mib") for stage in ("prefill", "decode")),
    *(define_metric(f"{stage}_steady_rss_mib") for stage in ("load", "prefill", "decode")),
    *map(
        define_metric,
        ("load_peak_anon_mib", *(f"{stage}_steady_anon_mib" for stage in ("load", "prefill", "decode"))),
    ),
    *(
        define_metric(key, form=",.0f")
        for key in ("peak_over_baseline_mib", "predicted_total_mib", "predicted_load_mib")
    ),
    *(
        define_metric(key, form=",.2f")
        for key in ("predicted_weight_mib", "mapped_weight_mib", "kv_cache_mib", "kv_mib")
    ),
    *(define_metric(f"{part}_held_mib") for part in ("weights", "kv", "activation", "runtime")),
    *(
        define_metric(f"{by}kv_per_1000_tokens_mib", form=",.3f", better=BetterDirection.neither)
        for by in ("", "predicted_")
    ),
    *(
        define_metric(f"predicted_{part}_mib", better=BetterDirection.neither)
        for part in ("weights_held", "activation", "runtime")
    ),
    *(define_metric(f"{what}_prediction_error", form="+.1%") for what in ("weight", "kv", "total")),
    *define_counts(BetterDirection.neither, "points"),
    *define_counts(BetterDirection.lower, "points_not_measured"),
)
