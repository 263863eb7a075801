"""Checks files, memory and C kernels before a model's weights are read. Imports no torch."""

from __future__ import annotations

from runner_base import machine
from runner_base.notes import Note
from runner_engine.checkpoints import adapter_shapes, adapter_support, chat_templates, random_weights
from runner_engine.checkpoints.draft import (
    check_draft_compatibility,
    resolve_and_check_draft_model,
    resolve_draft_model,
)
from runner_engine.checkpoints.kv_size import compute_kv_size
from runner_engine.checkpoints.positions import build_replaced_rope_scaling_notes, check_rope_scaling_factor
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.kernels import building
from runner_engine.plan import format_check
from runner_engine.plan.load_plan import plan_model_load
from runner_engine.plan.memory_check import check_memory, limit_free_memory
from runner_engine.plan.slow_families import build_slow_family_notes


def check_model_and_adapter_files(resolved: ResolvedModel, uses_chat: bool = False) -> None:
    """Raise ConfigError if file headers show an unsupported combination of model and adapter."""
    format_check.check_checkpoint_format(resolved)
    check_rope_scaling_factor(resolved.files.text_settings, resolved.spec.rope)
    if uses_chat:
        chat_templates.check_has_chat_template(resolved.files)
    for adapted in resolved.single_adapter_models or [resolved]:
        adapter_support.check_adapter_support(adapted)
        adapter_shapes.check_adapter_shapes(adapted.files)
        adapter_shapes.check_adapter_allows_separate_experts(adapted.files, adapted.quantization_mix)
    of = resolved.spec.generation.kv_cache_config
    if of.layers:
        of.check_layers(
            compute_kv_size(resolved.files.text_settings, resolved.files.dtype_bytes).num_kv_layers
        )
    if resolved.files.model.random_weights:
        random_weights.check_random_checkpoint_disk_space(resolved.files.model)
    with resolve_and_check_draft_model(resolved) as draft:
        if draft is not None:
            check_model_and_adapter_files(draft)
    check_draft_compatibility(resolved, draft)


def check_memory_fits(resolved: ResolvedModel) -> list[Note]:
    """Raise an error if the model does not fit in this machine's memory.

    Returns notes on close limits and on slow decoding.
    """
    plan, notes = (
        plan_model_load(resolved),
        build_replaced_rope_scaling_notes(resolved.files.text_settings, resolved.spec.rope)
        + build_slow_family_notes(resolved),
    )
    if plan.device == "cuda":
        return notes  # only torch knows how much memory of a GPU is free
    return notes + check_memory(
        plan, limit_free_memory({"cpu": machine.available_memory_mib()}, plan.files.model.max_memory)
    )


STATE_SPACES = {  # families with layers whose states are computed in C
    "bailing_hybrid",
    "bamba",
    "falcon_h1",
    "falcon_mamba",
    "granitemoehybrid",
    "jamba",
    "kimi_linear",
    "lfm2",
    "lfm2_moe",
    "lfm3",
    "mamba",
    "mamba2",
    "nemotron_h",
    "olmo_hybrid",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_next",
    "recurrent_gemma",
    "zamba",
    "zamba2",
}


def build_required_kernels(resolved: ResolvedModel) -> float:
    """Build the C kernels that a model needs. Returns the build time in seconds.

    Models on a GPU need none.
    """
    if resolved.files.device != "cpu":
        return 0.0
    draft = resolve_draft_model(resolved)
    choices = [
        *resolved.quantization_mix.quantizing_configs,
        *(() if draft is None else draft.quantization_mix.quantizing_configs),
    ]
    needs = {
        building.FLOAT32: resolved.files.dtype == "float32",
        building.PACKED: any(choice.own_layers is not None for choice in choices),
        building.RECURRENT: resolved.files.text_settings.get("model_type") in STATE_SPACES,
        building.KV_BYTES: resolved.spec.generation.kv_cache_config.is_quantized,
    }
    return building.build_kernels_if_missing([feature for feature, is_needed in needs.items() if is_needed])
