"""Reports what was loaded as a base: counts, bytes, where it is, and notes."""

from __future__ import annotations

import logging

from runner_base import ConfigError, machine
from runner_base.console import IN_TABLE
from runner_engine.checkpoints.gguf_file import read_header
from runner_engine.checkpoints.mixture import mixture_in
from runner_engine.checkpoints.resolve import ResolvedModel, file_bytes
from runner_engine.models import gguf_blocks, inventory
from runner_engine.models.grouped import hidden_parameters
from runner_engine.models.loaded import Loaded
from runner_engine.models.rope import choices as rope_room
from runner_engine.quantization.base import OwnLayers
from runner_engine.render.notes import render

log = logging.getLogger(__name__)


def describe_base(base: Loaded, resolved: ResolvedModel) -> None:
    """Report what was loaded; ConfigError where nothing of it is quantized that was to be."""
    model, spec, files = base.model, resolved.spec, resolved.files
    base.metrics["file_mib"] = file_bytes(files.path) / machine.MIB
    settings = model.config.get_text_config()
    described, notes = inventory.describe_quantization(model, resolved.mix)
    base.report(described)
    base.notes += notes
    is_all_skipped = spec.quantization.skip and not spec.quantization.overrides
    if spec.mix.quantizes and not base.metrics["quantized_modules"] and not is_all_skipped:
        raise ConfigError(
            f"quantization={spec.quantization.label} found no linear layer to quantize in this model",
            code="no_effect",
        )
    # now, not later: bitsandbytes' CPU kernels repack the weights in their first forward pass
    base.bytes_by_dtype = inventory.weight_bytes(model)
    base.metrics["mapped_weight_mib"] = inventory.mapped_mib(model)
    rope_metrics, rope_facts = rope_room.describe(model, spec.rope)
    base.metrics |= {
        "parameters": gguf_blocks.parameters(model) + hidden_parameters(model),
        "vocab_size": settings.vocab_size,
    }
    base.metrics |= (
        rope_metrics | inventory.peaks() | {"unpacked_mib": inventory.unpacked_mib(model, resolved.mix)}
    )
    base.notes += rope_room.notes(settings, spec.rope)
    base.facts |= {
        "architecture": (settings.architectures or model.config.architectures or [type(model).__name__])[0],
        "device": inventory.places(model, base.device),
        "attention": str(getattr(settings, "_attn_implementation", "unknown")),
        **rope_facts,
    }
    if (mixture := mixture_in(files)) is not None:
        base.metrics["active_parameters"] = mixture.active
        base.facts["experts"] = str(mixture)
    for one in base.notes:
        log.warning("note: %s", render(one), extra=IN_TABLE)
    if files.stored is not None:
        if not base.metrics["quantized_modules"]:
            raise ConfigError(
                f"model.name={spec.model.name} claims to be quantized, {files.stored}, but no layer of it is",
                code="mismatch",
            )
        base.facts["checkpoint"] = f"quantized already: {files.stored}"
    elif files.path.is_file():
        types = read_header(files.path).types
        base.facts["checkpoint"] = f"gguf: {types}"
        if resolved.mix.base.own_layers is not OwnLayers.blocks:
            base.facts["quantized"] = f"none, unpacked from {types}"
