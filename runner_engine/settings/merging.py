"""Whether an adapter can be merged into a model that is quantized, as far as the settings tell."""

from __future__ import annotations

from runner_base import ConfigError
from runner_engine.quantization.base import CheckpointSource
from runner_engine.quantization.mixed import Mix
from runner_engine.settings.lora import AdapterConfig, LoraConfig


def check_merging(lora: LoraConfig, mix: Mix) -> None:
    """Reject a merge whose order is not said, or that a quantization cannot take part in."""
    if not isinstance(lora, AdapterConfig) or not lora.merge:
        return
    if not mix.quantizes:
        if lora.merge_order is not None:
            raise ConfigError(
                f"lora.merge_order={lora.merge_order} with quantization={mix.base.label}: nothing is quantized, before "
                "or after: leave it out"
            )
        return
    begin = f"lora.merge=true with quantization={mix.base.label}"
    if lora.merge_order is None:
        raise ConfigError(
            f"{begin}: merging into quantized weights loses precision; use lora.merge=false, or quantization=none, or "
            "say in which order it shall be done, lora.merge_order=merge_first or quantize_first"
        )
    made = [choice for choice in mix.choices if choice.packed]
    if any(
        choice.source is not CheckpointSource.plain or not choice.quantizes_layers()
        for choice in made
    ):
        raise ConfigError(
            f"{begin}, lora.merge_order={lora.merge_order}: it quantizes no plain layer, so that a merged one cannot "
            "be quantized: use lora.merge=false, or a quantization such as nf4"
        )
