"""Predicts the memory that keys and values of earlier prompts can take. Imports no torch."""

from __future__ import annotations

from runner_engine.checkpoints.kv_size import compute_kv_size
from runner_engine.checkpoints.prompt_cache_size import compute_max_prompt_cache_mib
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.plan.footprint import Footprint
from runner_engine.plan.load_plan import plan_model_load


def predict_max_prompt_cache_mib(
    resolved: ResolvedModel, footprint: Footprint, free_mib: float, has_conversations: bool = False
) -> float:
    """Predict the most memory that earlier prompts can take. They give way to active sequences.

    free_mib: free memory before the load. has_conversations: requests continue conversations, as in a
    chat. Models with recurrent states store conversations, too.
    """
    plan = plan_model_load(resolved)
    if not plan.uses_scheduler:
        return 0.0
    size = compute_kv_size(plan.settings, plan.files.dtype_bytes)
    loaded_mib = footprint.resident_weight_mib + footprint.runtime_mib
    return compute_max_prompt_cache_mib(
        plan.spec.generation.prompt_cache_mib,
        free_mib - loaded_mib,
        plan.device,
        has_conversations or size.state_bytes > 0,
    )
