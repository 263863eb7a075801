"""The weights of a model, by whichever way: files checked, read, found complete, quantized, and
released."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from runner_base import ConfigError, DataError, few, is_memory_error, one_line
from runner_base.notes import Note, note
from runner_engine.checkpoints.own_head import is_of_head
from runner_engine.checkpoints.weight_files import read_weight_file
from runner_engine.devices import heap
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.models import bin_file
from runner_engine.models.first_layers import keep_first
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.grouped import GroupedLinear
from runner_engine.models.load_tokenizer import gguf_fix
from runner_engine.models.loading import expert_by_expert
from runner_engine.models.loading.contract import Report, WayOfLoading
from runner_engine.models.rope import choices as rope_room
from runner_engine.plan.load_plan import LoadPlan
from runner_engine.quantization.base import OwnLayers
from runner_engine.quantization.capabilities import ChecksLoaded


def load_weights(way: WayOfLoading, arguments: dict[str, Any]) -> tuple[Any, list[Note]]:
    """Return the model with its weights, and a note on what the checkpoint has besides.

    arguments: those of the way's `prepare`.
    """
    resolved = way.resolved
    folder, named = resolved.files.path, f"model.name={resolved.files.model.name}"
    model, report = _read(way, arguments, folder, named)
    unused = [name for name in report["unexpected_keys"] if not is_of_head(resolved.files, name)]
    report = report | {"unexpected_keys": unused}  # a head is loaded by who guesses with it
    notes = _check_complete(model.eval(), report, f"{named}: the checkpoint in {folder}")
    expert_by_expert.quantize_loaded(way, model)
    model = way.finish(model)
    mix = resolved.mix
    for choice in mix.choices:
        if isinstance(choice, ChecksLoaded):
            choice.check_loaded(model)
    if mix.base.has_byte_rows and not mix.base.is_mixed:  # layers of a mix have it from their own choice
        for module in model.modules():
            if isinstance(module, GgufLinear | GroupedLinear):
                module.has_byte_rows = True
    if resolved.spec.first_layers is not None:
        keep_first(model, resolved.spec.first_layers)
    _release_files(way.plan)
    return model, notes


def _read(way: WayOfLoading, arguments: dict[str, Any], folder: Path, named: str) -> tuple[Any, Report]:
    """Read the weights; whatever is wrong with the files is one message that names the model and
    the folder."""
    from transformers import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    kind, files = way.resolved.files.weights
    if kind == "bin":
        bin_file.check_loadable(files)
    try:
        scaled = rope_room.prepare(way.resolved.spec.rope, folder, way.trusts_code)
        for file in files if kind == "safetensors" else []:
            read_weight_file(file)  # its error names a damaged file and the damage
        with heap.large_blocks_mapped():
            return expert_by_expert.read(way, arguments, scaled)
    except pickle.UnpicklingError as error:  # a .bin from before torch 1.6, which could not be checked before
        for file in files:
            bin_file.refuse_code(file, str(error))
        raise ConfigError(f"torch cannot read its weights in {folder}", key=named, code="damaged") from error
    except DataError as error:
        raise ConfigError(f"{named} cannot be loaded from {folder}: {error}", code=error.code) from error
    except ConfigError:
        raise
    except Exception as error:  # a library may raise anything over a user's files
        if is_memory_error(error):
            raise
        reason = f"{type(error).__name__}: {one_line(error, limit=400)}{gguf_fix(folder)}"
        raise ConfigError(f"{named} cannot be loaded from {folder}: {reason}", code="unreadable") from error


def _check_complete(model: Any, report: Report, checkpoint: str) -> list[Note]:
    """Reject a model with missing weights, which transformers would make up; return a note on
    unused ones."""
    if absent := sorted(report["missing_keys"]):
        raise ConfigError(
            f"{checkpoint} is not complete: it lacks {few(absent)} of {type(model).__name__}, which would be random "
            "numbers. Is a file missing, or config.json another model's?",
            code="damaged",
        )
    if unused := sorted(report["unexpected_keys"]):
        return [note("unused_tensors", model=type(model).__name__, tensors=few(unused))]
    return []


def _release_files(plan: LoadPlan) -> None:
    """Release the checkpoint's pages after quantizing or converting it; a weight that is still in
    it is read again.

    A single weight in the file keeps the whole file mapped, as large as the original model.
    """
    if plan.mix.base.own_layers is OwnLayers.blocks:
        return  # the weights are in the file
    if plan.mix.quantizes or plan.converts:
        MappedFiles().release_files(plan.files.weights[1])
