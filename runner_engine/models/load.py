"""From a spec to a loaded model: locate, quantize, adapt – and a report of what was really loaded."""

from __future__ import annotations

import logging
import pickle
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from runner_base import ConfigError, DataError, Dtype, check, few, is_memory_error, machine, one_line
from runner_base.console import IN_TABLE
from runner_base.dtypes import dtype_for, stored_dtype
from runner_engine.checkpoints import formats
from runner_engine.checkpoints.gguf_file import is_known, read_header
from runner_engine.checkpoints.memory_check import check_memory
from runner_engine.checkpoints.resolve import ResolvedModel, file_bytes, for_transformers
from runner_engine.checkpoints.weight_files import read_weight_file
from runner_engine.devices import heap
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.models import (
    bin_file,
    capability,
    gguf_blocks,
    gguf_tokenizer,
    inventory,
    made_groups,
    mixing,
    stored_groups,
    unfit,
)
from runner_engine.models.building import one_at_a_time
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.grouped import GroupedLinear, hidden_parameters
from runner_engine.models.load_tokenizer import gguf_fix, load_tokenizer
from runner_engine.models.loaded_lines import text
from runner_engine.models.lora import module_of
from runner_engine.models.rope import choices as rope_room
from runner_engine.models.vocabulary import check_tokenizer
from runner_engine.quantization import quiet_imports, stored_settings
from runner_engine.quantization.made_groups import MadeGroupsConfig
from runner_engine.settings.lora import adapter_of
from runner_engine.settings.model import Attention
from runner_engine.spec import ModelSpec

log = logging.getLogger(__name__)

MAX_KERNELS = 1024  # the default size of the cache


@dataclass
class Loaded:
    """A model with its tokenizer, and a report on the load."""

    model: Any
    tokenizer: Any
    device: torch.device
    bytes_by_dtype: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@one_at_a_time
def load_base(resolved: ResolvedModel) -> Loaded:
    """Load what the groups model, quantization and rope describe: the part that several jobs can share.

    Whoever asks for it has checked them. Only memory is checked again, now that devices are known.
    """
    quiet_imports()
    spec, files, mix = resolved.spec, resolved.files, resolved.mix
    model_config, folder, stored, quantization = files.model, files.path, files.stored, mix.base
    started = time.perf_counter()
    memory_notes = inventory.start_memory()
    limit_kernels()
    device = pick_device(model_config.device)
    for choice in mix.choices:
        choice.prepare(device.type)
    capability.check_adapter(files)
    dtype, notes = pick_dtype(model_config.dtype, files.settings, device)
    if dtype != (expected := getattr(torch, files.dtype)):  # torch cannot use a GPU that the system has
        dtype, notes = expected, [f"no GPU can be used after all, but the job was identified with {files.dtype}"]
    model_class = capability.class_of(folder, model_config.trust_remote_code)
    places, absent = capability.places_for(model_config)
    attention, fallback = capability.pick_attention(model_config.attention, device.type, model_class)
    notes += absent + memory_notes + fallback + check_memory(resolved, capability.rooms(model_config, device))
    notes += formats.notes(folder, stored, quantization, str(dtype).removeprefix("torch."))
    notes += gguf_tokenizer.notes(folder)

    arguments: dict[str, Any] = {"dtype": dtype}
    if stored is None and not quantization.is_mixed:  # a mix is quantized layer by layer
        arguments |= quantization.load_arguments()
        if isinstance(quantization, MadeGroupsConfig):
            arguments |= made_groups.arguments(quantization)
        elif capability.may_be_unfit(resolved):
            bare = capability.skeleton(
                capability.settings_of(folder, model_config.trust_remote_code), model_config.trust_remote_code
            )
            quantization.leave(arguments, unfit.left_plain(quantization, bare, device.type))
    if places:
        arguments["max_memory"] = places
    if attention is not Attention.auto:
        arguments["attn_implementation"] = attention.value
    tokenizer = load_tokenizer(f"model.name={model_config.name}", folder, model_config.trust_remote_code)
    if rows := files.text_settings.get("vocab_size"):
        notes += check_tokenizer(tokenizer, rows, model_config.name)
    at_first = torch.device("cpu") if quantization.is_mixed else device  # plain, it may be too large for the device
    model, unused = _load_weights(resolved, at_first, arguments)
    if quantization.is_mixed:
        with heap.large_blocks_mapped():
            model = mixing.apply(model, mix, device)
    notes += unused
    for choice in mix.choices:
        choice.check_loaded(model)
    if quantization.has_byte_rows and not quantization.is_mixed:  # layers of a mix have it from their own choice
        for module in model.modules():
            if isinstance(module, GgufLinear | GroupedLinear):
                module.has_byte_rows = True
    _release_files(resolved)
    rope_room.apply(model, spec.rope)
    if model_config.device_map is not None:
        device = entry_device(model)
    base = Loaded(model, tokenizer, device, notes=notes)
    base.metrics |= {"load_s": time.perf_counter() - started, "file_mib": file_bytes(folder) / machine.MIB}
    _describe_base(base, resolved)
    if stored is not None:
        if not base.metrics["quantized_modules"]:
            raise ConfigError(f"model.name={spec.model.name} claims to be quantized, {stored}, but no layer of it is")
        base.facts["checkpoint"] = f"quantized already: {stored}"
    elif folder.is_file():
        base.facts["checkpoint"] = f"gguf: {read_header(folder).types}"
        if not quantization.keeps_blocks:
            base.facts["quantized"] = f"none, unpacked from {read_header(folder).types}"
    return base


@one_at_a_time
def adapt(base: Loaded, resolved: ResolvedModel) -> Loaded:
    """Apply the adapter and thread count to a base, and report on both together."""
    started = time.perf_counter()
    loaded = replace(base, metrics=dict(base.metrics), facts=dict(base.facts), notes=list(base.notes))
    spec, files, lora, report = resolved.spec, resolved.files, resolved.files.lora, None
    if lora is not None:
        assert files.adapter is not None
        with ExitStack() as protecting:
            for choice in resolved.mix.choices:
                protecting.enter_context(choice.adapting(base.model))
            loaded.model, report = module_of(lora).apply(base.model, lora, files.adapter, spec.model.name)
        loaded.notes += report.notes
        if lora.usual_rope not in (None, spec.rope.name) and lora.path != "embedded":
            loaded.notes.append(
                f"rope={spec.rope.name}: most {lora.name} adapters were trained with 2D RoPE, the default of the "
                f"program that wrote them; if this one was, use rope={lora.usual_rope}"
            )
        loaded.bytes_by_dtype = base.bytes_by_dtype.copy()
        loaded.bytes_by_dtype.update(inventory.adapter_bytes(loaded.model))
    threads = files.model.threads or machine.threads_for(loaded.model.num_parameters())
    torch.set_num_threads(threads)
    loaded.facts["threads"] = str(threads)
    loaded.metrics["load_s"] += time.perf_counter() - started
    _note(loaded, inventory.describe_lora(lora, report))
    _note(loaded, inventory.describe_weights(loaded.bytes_by_dtype))
    loaded.metrics |= inventory.memory_in_use(loaded.metrics)
    log.info("loaded model:\n%s", text(loaded.metrics, loaded.facts), extra=IN_TABLE)
    return loaded


def release(loaded: Loaded, spec: ModelSpec) -> bool:
    """Remove the adapter; False if the base cannot be restored."""
    if spec.lora.merges:
        return False
    if (lora := adapter_of(spec.lora)) is not None:
        module_of(lora).remove(loaded.model)
    return True


def limit_kernels() -> None:
    """Limit oneDNN's cache if memory is short: it makes a kernel of up to 0.5 MiB for each new shape."""
    machine.keep_kernels(int(min(max(machine.available_mib() / 8, 16), MAX_KERNELS)))


def pick_device(wanted: str) -> torch.device:
    """Return the device that model.device means; ConfigError if it does not exist."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        visible = f"{count} CUDA GPUs are visible" if count else "no CUDA GPU is visible"
        check((device.index or 0) < count, "model.device", wanted, f"{visible}; use model.device=auto or cpu")
    return device


def entry_device(model: Any) -> torch.device:
    """Return the device for the prompts of a model that is spread over devices; accelerate moves data on from there."""
    embedding = model.get_input_embeddings()
    if embedding.weight.device.type != "meta":
        return torch.device(embedding.weight.device)
    hook = getattr(embedding, "_hf_hook", None)  # offloaded: its weights are there only while it computes
    at = getattr(hook, "execution_device", "cpu")
    return torch.device("cuda", at) if isinstance(at, int) else torch.device(at)


def pick_dtype(wanted: Dtype, settings: dict[str, Any], device: torch.device) -> tuple[torch.dtype, list[str]]:
    """Return the dtype that model.dtype means, and a note if a float16 checkpoint runs in bfloat16 on a CPU."""
    name = dtype_for(wanted, settings, device.type)
    if not isinstance(dtype := getattr(torch, name, None), torch.dtype):
        raise ConfigError(
            f"config.json says dtype={name!r}, which torch does not have: give model.dtype=bfloat16, or another"
        )
    notes = []
    if wanted is Dtype.auto and name != stored_dtype(settings):
        notes = [f"the checkpoint is {stored_dtype(settings)}, several times slower on a CPU: {name} is used"]
    return dtype, notes


def _load_weights(resolved: ResolvedModel, device: torch.device, arguments: dict[str, Any]) -> tuple[Any, list[str]]:
    from transformers import AutoModelForCausalLM
    from transformers import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model, folder, held = resolved.files.model, resolved.files.path, resolved.mix.base
    location, settings = for_transformers(folder, model.trust_remote_code)
    settings |= {**arguments, "device_map": model.device_map or {"": device}}
    kind, weights = resolved.files.weights
    if kind == "bin":
        bin_file.check_loadable(weights)
    try:
        scaled = rope_room.prepare(resolved.spec.rope, folder, model.trust_remote_code)
        if scaled is not None:
            settings["config"] = scaled
        for file in weights if kind == "safetensors" else []:
            read_weight_file(file)  # its error names a damaged file and the damage
        with heap.large_blocks_mapped():
            if folder.is_file() and model.device_map is None and is_known(read_header(folder)):
                own, attention = scaled or capability.settings_of(folder), arguments.get("attn_implementation")
                loaded: Any = gguf_blocks.load(folder, own, arguments["dtype"], attention, held.keeps_blocks)
                loaded[0].to(device)
            else:
                if held.keeps_groups:
                    own = scaled or capability.settings_of(folder, model.trust_remote_code)
                    settings |= stored_groups.arguments(folder, own, stored_settings(resolved.files.settings))
                loaded = AutoModelForCausalLM.from_pretrained(location, **settings, output_loading_info=True)
                if isinstance(held, MadeGroupsConfig) and resolved.files.stored is not None:
                    made_groups.adopt(held, loaded[0], str(folder))
    except pickle.UnpicklingError as error:  # a .bin from before torch 1.6, which could not be checked before
        for file in weights:
            bin_file.refuse_code(file, str(error))
        raise ConfigError(f"model.name={model.name}: torch cannot read its weights in {folder}") from error
    except DataError as error:
        raise ConfigError(f"model.name={model.name} cannot be loaded from {folder}: {error}") from error
    except ConfigError:
        raise
    except Exception as error:  # a library may raise anything over a user's files
        if is_memory_error(error):
            raise
        reason = f"{type(error).__name__}: {one_line(error, limit=400)}{gguf_fix(folder)}"
        raise ConfigError(f"model.name={model.name} cannot be loaded from {folder}: {reason}") from error
    filled, report = loaded
    return filled.eval(), _check_complete(filled, report, f"model.name={model.name}: the checkpoint in {folder}")


def _release_files(resolved: ResolvedModel) -> None:
    """Release the checkpoint's pages after quantizing or converting it; a weight that is still in it is read again.

    A single weight in the file keeps the whole file mapped, as large as the original model.
    """
    mix, files = resolved.mix, resolved.files
    if mix.base.keeps_blocks:
        return  # the weights are in the file
    if mix.quantizes or stored_dtype(files.settings) != files.dtype:
        MappedFiles().release_files(files.weights[1])


def _check_complete(model: Any, report: dict[str, Any], checkpoint: str) -> list[str]:
    """Reject a model with missing weights, which transformers would make up; return a note on unused ones."""
    if absent := sorted(report["missing_keys"]):
        raise ConfigError(
            f"{checkpoint} is not complete: it lacks {few(absent)} of {type(model).__name__}, which would be random "
            "numbers. Is a file missing, or config.json another model's?"
        )
    if unused := sorted(report["unexpected_keys"]):
        return [f"{type(model).__name__} has no use for {few(unused)} of the checkpoint"]
    return []


def _describe_base(base: Loaded, resolved: ResolvedModel) -> None:
    model, spec = base.model, resolved.spec
    settings = model.config.get_text_config()
    described, notes = inventory.describe_quantization(model, resolved.mix)
    _note(base, described)
    base.notes += notes
    is_all_skipped = spec.quantization.skip and not spec.quantization.overrides
    if spec.mix.quantizes and not base.metrics["quantized_modules"] and not is_all_skipped:
        raise ConfigError(f"quantization={spec.quantization.label} found no linear layer to quantize in this model")
    # now, not later: bitsandbytes' CPU kernels repack the weights in their first forward pass
    base.bytes_by_dtype = inventory.weight_bytes(model)
    base.metrics["mapped_weight_mib"] = inventory.mapped_mib(model)
    rope_metrics, rope_facts = rope_room.describe(model)
    base.metrics |= {
        "parameters": gguf_blocks.parameters(model) + hidden_parameters(model),
        "vocab_size": settings.vocab_size,
    }
    base.metrics |= rope_metrics | inventory.peaks() | {"unpacked_mib": inventory.unpacked_mib(model, resolved.mix)}
    base.notes += rope_room.notes(settings, spec.rope)
    base.facts |= {
        "architecture": (settings.architectures or model.config.architectures or [type(model).__name__])[0],
        "device": inventory.places(model, base.device),
        "attention": str(getattr(settings, "_attn_implementation", "unknown")),
        **rope_facts,
    }
    for note in base.notes:
        log.warning("note: %s", note, extra=IN_TABLE)


def _note(loaded: Loaded, described: inventory.Described) -> None:
    metrics, facts = described
    loaded.metrics |= metrics
    loaded.facts |= facts
