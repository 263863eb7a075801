"""What is on after a load, in a few lines: the same ones in the log right after it and in the table at the end."""

from __future__ import annotations

from collections.abc import Mapping

FACTS = ("architecture", "dtype", "quantized", "left_alone", "lora", "rope", "attention", "device", "threads")
METRICS = ("parameters", "weight_mib", "quantized_modules", "unquantized_linears", "lora_modules", "rope_pairs",
           "rope_pairs_patched", "load_s", "load_peak_rss_mib", "load_rss_mib")  # fmt: skip
SHOWN = {*FACTS, "decoding", "load_s", "weight_mib"}  # what these lines say, so that no table says it again


def lines(metrics: Mapping[str, float], facts: Mapping[str, str]) -> dict[str, str]:
    """Return label → text; nothing where no model was loaded, or by an earlier version that counted less."""
    if not (facts.keys() >= {*FACTS} and metrics.keys() >= {*METRICS}):
        return {}
    threads = f"{facts['threads']} thread{'' if facts['threads'] == '1' else 's'}"
    patched = "" if metrics["rope_pairs_patched"] else f" · {metrics['rope_pairs']:.0f} pairs, none patched"
    alone = "" if metrics["quantized_modules"] == 0 else f" · left alone: {facts['left_alone']}"
    checkpoint = f" · checkpoint {facts['checkpoint']}" if "checkpoint" in facts else ""
    decoding = f" · decoding {facts['decoding']}" if "decoding" in facts else ""
    load = (
        f"{metrics['load_s']:.2f} s · peak {metrics['load_peak_rss_mib']:,.0f} MiB, "
        f"then {metrics['load_rss_mib']:,.0f} MiB resident"
    )
    if metrics.keys() >= {"gpu_mib", "load_peak_gpu_mib"}:
        load += f" · GPU peak {metrics['load_peak_gpu_mib']:,.0f} MiB, then {metrics['gpu_mib']:,.0f} MiB"
    return {
        "loaded": f"{facts['architecture']} · {metrics['parameters']:,.0f} parameters · "
        f"{metrics['weight_mib']:,.2f} MiB: {facts['dtype']}",
        "quantized": f"{facts['quantized']}{alone}{checkpoint}",
        "lora": facts["lora"],
        "rope": f"{facts['rope']}{patched}",
        "runs on": f"{facts['device']} · {threads} · attention {facts['attention']}{decoding}",
        "load": load,
    }


def text(metrics: Mapping[str, float], facts: Mapping[str, str]) -> str:
    """Return the lines as one text, for the log."""
    return "\n".join(f"{label:>11}  {words}" for label, words in lines(metrics, facts).items())
