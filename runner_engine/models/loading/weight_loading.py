"""Loads weights with a loading backend, and checks that the weights are complete."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from runner_base import ConfigError, DataError, is_out_of_memory_error, join_first_names, to_one_line
from runner_base.notes import Note, note
from runner_engine.checkpoints.mtp_head import is_mtp_head_tensor
from runner_engine.checkpoints.weight_files import read_weight_file_header
from runner_engine.devices import heap
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.models import bin_file
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layer_truncation import keep_first_layers
from runner_engine.models.load_tokenizer import build_gguf_error_hint
from runner_engine.models.loading import expert_loading
from runner_engine.models.loading.contract import LoadingBackend, LoadingInfo
from runner_engine.models.rope import rope_application as rope_room
from runner_engine.plan.load_plan import LoadPlan
from runner_engine.quantization.base import OwnLayers
from runner_engine.quantization.capabilities import LoadedLayerChecker


def load_weights(backend: LoadingBackend, arguments: dict[str, Any]) -> tuple[Any, list[Note]]:
    """Load a model's weights. Returns the model, and a note if the checkpoint contains unused tensors.

    arguments: the result of the backend's `prepare_arguments`.
    """
    resolved = backend.resolved
    folder, named = resolved.files.path, f"model.name={resolved.files.model.name}"
    model, report = _load_or_explain_failure(backend, arguments, folder, named)
    unused = [name for name in report["unexpected_keys"] if not is_mtp_head_tensor(resolved.files, name)]
    report = report | {"unexpected_keys": unused}  # a head is loaded by who guesses with it
    notes = _check_missing_weights(model.eval(), report, f"{named}: the checkpoint in {folder}")
    expert_loading.quantize_loaded_experts(backend, model)
    model = backend.quantize_after_load(model)
    mix = resolved.quantization_mix
    for choice in mix.quantizing_configs:
        if isinstance(choice, LoadedLayerChecker):
            choice.check_loaded_layers(model)
    if (
        mix.base.has_int8_activations and not mix.base.is_mixed
    ):  # layers of a mix have it from their own choice
        for module in model.modules():
            if isinstance(module, GgufLinear | GroupedLinear):
                module.has_byte_rows = True
    if resolved.spec.first_layers is not None:
        keep_first_layers(model, resolved.spec.first_layers)
    _release_mapped_checkpoint_pages(backend.plan)
    return model, notes


def _load_or_explain_failure(
    backend: LoadingBackend, arguments: dict[str, Any], folder: Path, config_entry: str
) -> tuple[Any, LoadingInfo]:
    """Load the weights. If the files are unreadable, raise a ConfigError that names the model and
    its folder.
    """
    from transformers import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    kind, files = backend.resolved.files.weight_files
    if kind == "bin":
        bin_file.reject_unsafe_bin_files(files)
    try:
        scaled = rope_room.build_rope_config(backend.resolved.spec.rope, folder, backend.trusts_code)
        for file in files if kind == "safetensors" else []:
            read_weight_file_header(file)  # its error names a damaged file and the damage
        with heap.use_mmap_for_large_blocks():
            return expert_loading.load_expert_by_expert(backend, arguments, scaled)
    except pickle.UnpicklingError as error:  # a .bin from before torch 1.6, which could not be checked before
        for file in files:
            bin_file.reject_pickled_code(file, str(error))
        raise ConfigError(
            f"torch cannot read the weights in {folder}", key=config_entry, code="damaged"
        ) from error
    except DataError as error:
        raise ConfigError(
            f"{config_entry} cannot be loaded from {folder}: {error}", code=error.code
        ) from error
    except ConfigError:
        raise
    except Exception as error:  # a library may raise anything over a user's files
        if is_out_of_memory_error(error):
            raise
        reason = f"{type(error).__name__}: {to_one_line(error, limit=400)}{build_gguf_error_hint(folder)}"
        raise ConfigError(
            f"{config_entry} cannot be loaded from {folder}: {reason}", code="unreadable"
        ) from error


def _check_missing_weights(model: Any, report: LoadingInfo, checkpoint: str) -> list[Note]:
    """Raise ConfigError if weights are missing from the checkpoint. Returns a note on unused
    tensors.

    transformers would fill missing weights with random numbers.
    """
    if absent := sorted(report["missing_keys"]):
        raise ConfigError(
            f"{checkpoint} is not complete: {type(model).__name__} also needs the weights "
            f"{join_first_names(absent)}, which would get random values. "
            "Check for missing files, or a config.json of another model",
            code="damaged",
        )
    if unused := sorted(report["unexpected_keys"]):
        return [note("unused_tensors", model=type(model).__name__, tensors=join_first_names(unused))]
    return []


def _release_mapped_checkpoint_pages(plan: LoadPlan) -> None:
    """Release the checkpoint's memory-mapped pages if its weights were copied by quantization, dtype
    conversion or joining experts.

    Weights that are still mapped are read from disk again.

    A single weight in the file keeps the whole file mapped, as large as the original model.
    """
    if plan.quantization_mix.base.own_layers is OwnLayers.blocks:
        return  # the weights are in the file
    joins_experts = plan.weight_bytes_by_part.get("expert", 0) > 0
    if plan.quantization_mix.quantizes or plan.converts_dtype or joins_experts:
        MappedFiles().release_files(plan.files.weight_files[1])
