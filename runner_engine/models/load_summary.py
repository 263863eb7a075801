"""Summarizes the load of a model in a few lines, for the log and the final table."""

from __future__ import annotations

from collections.abc import Mapping

FORMS = {"parameters": ",.0f", "weight_mib": ",.2f", "rope_pairs": ".0f", "load_s": ".2f", "merge_s": ".2f",
         "load_peak_rss_mib": ",.0f", "load_rss_mib": ",.0f", "load_peak_gpu_mib": ",.0f",
         "gpu_mib": ",.0f"}  # fmt: skip
# The metrics and facts on these lines, which the table then does not show again.
SHOWN = {"architecture", "dtype", "quantized", "left_alone", "lora", "rope", "attention", "device", "threads",
         "decoding", "kv_cache", "load_s", "merge_s", "weight_mib", "experts"}  # fmt: skip


def summarize_load(metrics: Mapping[str, float], facts: Mapping[str, str]) -> dict[str, str]:
    if "quantized" not in facts or "load_s" not in metrics:
        return {}
    written = {key: format(metrics[key], form) for key, form in FORMS.items() if key in metrics}
    threads = f"{facts['threads']} thread{'' if facts['threads'] == '1' else 's'}"
    patched = "" if metrics["rope_pairs_patched"] else f" · {written['rope_pairs']} pairs, none patched"
    is_partial = metrics["quantized_modules"] > 0 and facts["left_alone"] != "none"
    alone = f" · not quantized: {facts['left_alone']}" if is_partial else ""
    checkpoint = f" · checkpoint {facts['checkpoint']}" if "checkpoint" in facts else ""
    decoding = f" · decoding {facts['decoding']}" if "decoding" in facts else ""
    kv_cache = f" · KV cache {facts['kv_cache']}" if "kv_cache" in facts else ""
    experts = f" · experts {facts['experts']}" if "experts" in facts else ""
    merging = f", {written['merge_s']} s of them for merging" if "merge_s" in written else ""
    load = f"{written['load_s']} s{merging} · peak {written['load_peak_rss_mib']} MiB"
    if "load_rss_mib" in written:
        load += f", then {written['load_rss_mib']} MiB resident"
    if "gpu_mib" in written:
        load += f" · GPU peak {written['load_peak_gpu_mib']} MiB, then {written['gpu_mib']} MiB"
    return {
        "loaded": f"{facts['architecture']} · {written['parameters']} parameters{experts} · "
        f"{written['weight_mib']} MiB: {facts['dtype']}",
        "quantized": f"{facts['quantized']}{alone}{checkpoint}",
        "lora": facts["lora"],
        "rope": f"{facts['rope']}{patched}",
        "runs on": f"{facts['device']} · {threads} · attention {facts['attention']}{decoding}{kv_cache}",
        "load": load,
    }


def format_summary(metrics: Mapping[str, float], facts: Mapping[str, str]) -> str:
    return "\n".join(f"{label:>11}  {words}" for label, words in summarize_load(metrics, facts).items())
