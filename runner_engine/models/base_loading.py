"""Loads a base model and its tokenizer, applies the rope settings, and builds a load report.

adapter_lifecycle.py applies adapters. Each module of loading/ is one loading backend.
"""

from __future__ import annotations

import time

from runner_base import report_step
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.models.base_report import fill_base_model_report
from runner_engine.models.build_lock import forbid_concurrent_builds
from runner_engine.models.load_target import find_input_device, resolve_load_target
from runner_engine.models.load_tokenizer import load_and_check_tokenizer
from runner_engine.models.loaded_model import LoadedModel
from runner_engine.models.loading import create_loading_backend, load_weights
from runner_engine.models.rope import rope_application as rope_room
from runner_engine.plan.load_plan import plan_model_load
from runner_engine.quantization import mute_library_imports

__all__ = ["LoadedModel", "load_base_model"]


@forbid_concurrent_builds
def load_base_model(resolved: ResolvedModel) -> LoadedModel:
    """Load a base model with the configured quantization and rope, but without adapter. Several
    jobs can share it.

    The caller has checked the config. Only memory is checked again, now that devices are known.
    """
    mute_library_imports()
    started = time.perf_counter()
    target = resolve_load_target(plan_model_load(resolved))
    way = create_loading_backend(target)
    arguments = way.prepare_arguments()
    tokenizer, of_tokenizer = load_and_check_tokenizer(resolved.files)
    with report_step(f"loading {resolved.files.path.name}"):
        model, of_weights = load_weights(way, arguments)
    rope_room.patch_rope(model, resolved.spec.rope)
    device = target.device if resolved.files.model.device_map is None else find_input_device(model)
    base = LoadedModel(
        model, tokenizer, device, notes=[*target.notes, *of_tokenizer, *of_weights], merged=way.merged
    )
    base.metrics["load_s"] = time.perf_counter() - started
    fill_base_model_report(base, resolved)
    return base
