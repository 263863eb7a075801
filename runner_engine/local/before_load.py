"""What is checked, predicted and built for a model on this machine before its weights are read.
Imports no torch."""

from __future__ import annotations

from runner_base import machine
from runner_base.notes import Note
from runner_engine.checkpoints import adapter_header, adapter_kinds, chat_templates, random_weights
from runner_engine.checkpoints.draft import check_guesses, checked_draft, draft_of
from runner_engine.checkpoints.kept_kv import kept_kv
from runner_engine.checkpoints.positions import check_factor, notes_on_factor
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.kernels import building
from runner_engine.plan import formats
from runner_engine.plan.load_plan import plan_load
from runner_engine.plan.memory_check import check_memory, limited


def check_files(resolved: ResolvedModel, asks_in_chat: bool = False) -> None:
    """Reject what cannot work, as far as the headers of model and adapter tell."""
    formats.check(resolved)
    check_factor(resolved.files.text_settings, resolved.spec.rope)
    if asks_in_chat:
        chat_templates.check(resolved.files)
    for adapted in resolved.apart or [resolved]:
        adapter_kinds.check(adapted)
        adapter_header.check(adapted.files)
        adapter_header.check_experts(adapted.files, adapted.mix)
    of = resolved.spec.generation.stored_kv
    if of.layers:
        of.check_layers(kept_kv(resolved.files.text_settings, resolved.files.dtype_bytes).layers)
    if resolved.files.model.random_weights:
        random_weights.check_disk(resolved.files.model)
    with checked_draft(resolved) as draft:
        if draft is not None:
            check_files(draft)
    check_guesses(resolved, draft)


def check_fits(resolved: ResolvedModel) -> list[Note]:
    """Reject a model that does not fit into this machine's memory; return notes on what is close to
    a limit."""
    plan, notes = plan_load(resolved), notes_on_factor(resolved.files.text_settings, resolved.spec.rope)
    if plan.device == "cuda":
        return notes  # only torch knows how much memory of a GPU is free
    return notes + check_memory(plan, limited({"cpu": machine.available_mib()}, plan.files.model.max_memory))


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


def build_kernels(resolved: ResolvedModel) -> float:
    """Build the kernels that a model needs, unless it is on a GPU; return the seconds."""
    if resolved.files.device != "cpu":
        return 0.0
    draft = draft_of(resolved)
    choices = [*resolved.mix.choices, *(() if draft is None else draft.mix.choices)]
    needs = {
        building.FLOAT32: resolved.files.dtype == "float32",
        building.PACKED: any(choice.own_layers is not None for choice in choices),
        building.RECURRENT: resolved.files.text_settings.get("model_type") in STATE_SPACES,
        building.KV_BYTES: resolved.spec.generation.stored_kv.in_bytes,
    }
    return building.prepare([feature for feature, is_needed in needs.items() if is_needed])
