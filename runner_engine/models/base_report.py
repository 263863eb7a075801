"""Reports the metrics, facts and notes of a loaded base model."""

from __future__ import annotations

import logging

from runner_base import ConfigError, machine
from runner_base.console import IN_TABLE
from runner_engine.checkpoints.gguf_file import read_gguf_header
from runner_engine.checkpoints.mixture import compute_checkpoint_expert_mixture_size
from runner_engine.checkpoints.resolved_model import ResolvedModel, count_weight_file_nbytes
from runner_engine.models import gguf_blocks, inventory
from runner_engine.models.grouped_linear import count_weights_beyond_stored_elements
from runner_engine.models.loaded_model import LoadedModel
from runner_engine.models.rope import rope_application as rope_room
from runner_engine.quantization.base import OwnLayers
from runner_engine.render.notes import render_engine_note

log = logging.getLogger(__name__)


def fill_base_model_report(base: LoadedModel, resolved: ResolvedModel) -> None:
    """Add metrics, facts and notes to the report of a loaded base model. Raises ConfigError if a
    requested quantization affected no layer.
    """
    model, spec, files = base.model, resolved.spec, resolved.files
    base.metrics["file_mib"] = count_weight_file_nbytes(files.path) / machine.MIB
    settings = model.config.get_text_config()
    described, notes = inventory.report_quantized_layers(model, resolved.quantization_mix)
    base.add_metrics_and_facts(described)
    base.notes += notes
    is_all_skipped = spec.quantization.skip and not spec.quantization.overrides
    if spec.layer_mix.quantizes and not base.metrics["quantized_modules"] and not is_all_skipped:
        raise ConfigError(
            f"quantization={spec.quantization.label} has no effect: this model has no layer to quantize",
            code="no_effect",
        )
    # now, not later: bitsandbytes' CPU kernels repack the weights in their first forward pass
    base.bytes_by_dtype = inventory.count_weight_nbytes(model)
    base.metrics["mapped_weight_mib"] = inventory.measure_memory_mapped_weight_mib(model)
    rope_metrics, rope_facts = rope_room.describe_rope(model, spec.rope)
    base.metrics |= {
        "parameters": gguf_blocks.count_parameters(model) + count_weights_beyond_stored_elements(model),
        "vocab_size": settings.vocab_size,
    }
    base.metrics |= (
        rope_metrics
        | inventory.measure_peak_memory_mib()
        | {
            "unpacked_mib": inventory.estimate_largest_dequantized_weight_mib(
                model, resolved.quantization_mix
            )
        }
    )
    base.notes += rope_room.make_dynamic_rope_notes(settings, spec.rope)
    base.facts |= {
        "architecture": (settings.architectures or model.config.architectures or [type(model).__name__])[0],
        "device": inventory.describe_devices(model, base.device),
        "attention": str(getattr(settings, "_attn_implementation", "unknown")),
        **rope_facts,
    }
    if (mixture := compute_checkpoint_expert_mixture_size(files)) is not None:
        base.metrics["active_parameters"] = mixture.active_parameters
        base.facts["experts"] = str(mixture)
    for one in base.notes:
        log.warning("note: %s", render_engine_note(one), extra=IN_TABLE)
    if files.stored_format is not None:
        if not base.metrics["quantized_modules"]:
            raise ConfigError(
                f"model.name={spec.model.name}: the checkpoint declares the format {files.stored_format}, "
                "but none of its layers is quantized",
                code="mismatch",
            )
        base.facts["checkpoint"] = f"quantized already: {files.stored_format}"
    elif files.path.is_file():
        types = read_gguf_header(files.path).tensor_type_counts_text
        base.facts["checkpoint"] = f"gguf: {types}"
        if resolved.quantization_mix.base.own_layers is not OwnLayers.blocks:
            base.facts["quantized"] = f"none, unpacked from {types}"
