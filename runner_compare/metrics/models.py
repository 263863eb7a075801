"""Metrics of a loaded model and its memory."""

from __future__ import annotations

from runner_compare.metrics.kinds import Better, Metric, counts, metric

METRICS: tuple[Metric, ...] = (
    # the model
    metric("file_mib", "file", ",.2f"),
    metric("parameters", form=",.0f"),
    metric("active_parameters", "parameters that a token uses", ",.0f"),
    metric("weight_mib", form=",.2f", head_words="weights\nMiB"),
    *(metric(key, form=".0f") for key in ("lora_modules", "lora_rank", "rope_pairs")),
    metric("lora_delta_norm", form=".3g"),
    metric("quantized_share", "quantized parameters in blocks", ".1%", better=Better.neither),
    metric("quantized_share_of_all", "quantized parameters", ".1%", better=Better.neither),
    metric("quantized_share_of_bytes", "quantized bytes", ".1%", better=Better.neither),
    metric("quantized_share_of_wanted", "quantized parameters of those named", ".1%", better=Better.neither),
    *map(metric, ("quantized_modules", "unquantized_linears", "lora_parameters", "rope_pairs_patched")),
    *map(metric, ("vocab_size", "max_positions", "base_loads")),
    metric(
        "made_for_positions", "positions that its RoPE setting is made for", ",.0f", better=Better.neither
    ),
    metric("stored_mib", "on disk"),
    # memory
    metric("peak_rss_mib", "peak RSS", ",.0f"),
    metric("load_peak_rss_mib", "peak RSS of the load", ",.0f"),
    metric("load_rss_mib", "RSS after the load", ",.0f"),
    metric("sum_peak_rss_mib", "peak RSS of all processes"),
    metric(
        "model_mib",
        "model's memory",
        ",.2f",
        head_words="memory\nMiB",
        axis_words="the model's own memory, MiB",
    ),
    metric("kv_peak_mib", "KV cache at its peak", ",.2f"),
    metric("activation_mib", "activations of the largest pass", ",.2f"),
    metric("unpacked_mib", "unpacked copy of a weight", ",.2f"),
    metric("cuda_peak_mib", "peak GPU", axis_words="peak GPU memory, MiB"),
    metric("gpu_mib", "GPU", ",.0f"),
    metric("load_peak_gpu_mib", "peak GPU of the load", ",.0f"),
    *map(metric, ("cuda_reserved_mib", "cuda_steady_mib", "steady_rss_mib", "rss_growth_mib", "pss_mib")),
    *map(metric, ("mapped_files_mib", "baseline_mib", "baseline_anon_mib")),
    *(metric(f"{stage}_peak_rss_mib") for stage in ("prefill", "decode")),
    *(metric(f"{stage}_steady_rss_mib") for stage in ("load", "prefill", "decode")),
    *map(
        metric,
        ("load_peak_anon_mib", *(f"{stage}_steady_anon_mib" for stage in ("load", "prefill", "decode"))),
    ),
    *(
        metric(key, form=",.0f")
        for key in ("peak_over_baseline_mib", "predicted_total_mib", "predicted_load_mib")
    ),
    *(
        metric(key, form=",.2f")
        for key in ("predicted_weight_mib", "mapped_weight_mib", "kv_cache_mib", "kv_mib")
    ),
    *(metric(f"{part}_held_mib") for part in ("weights", "kv", "activation", "runtime")),
    *(metric(f"{by}kv_per_1000_tokens_mib", form=",.3f", better=Better.neither) for by in ("", "predicted_")),
    *(
        metric(f"predicted_{part}_mib", better=Better.neither)
        for part in ("weights_held", "activation", "runtime")
    ),
    *(metric(f"{what}_prediction_error", form="+.1%") for what in ("weight", "kv", "total")),
    *counts(Better.neither, "points"),
    *counts(Better.lower, "points_not_measured"),
)
