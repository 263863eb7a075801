"""Loads one part of a split as a pipeline stage.

The part's file is memory-mapped and its tensors become the stage's parameters directly, so
loading needs no memory beyond the weights. A change of dtype or a GPU copies them tensor by
tensor. Plain `from_pretrained` cannot do that: it fills the tensors of other parts with
random numbers. In a parts folder it finds no config.json and fails.
"""

from __future__ import annotations

import copy
import logging
import re
import time
from pathlib import Path
from typing import Any

import torch

from runner.options.parts.sharding.manifest import INSTEAD, MODEL_FILES, Manifest, PartEntry, read_manifest
from runner.options.parts.sharding.part_checks import require_intact_part
from runner.options.parts.sharding.stage import Stage
from runner_base import ConfigError, DataError, to_one_line
from runner_engine.models.load_tokenizer import load_tokenizer as load_model_tokenizer
from runner_engine.quantization import mute_library_imports

# a per-layer list in a config, whatever the family calls it: layer_types, mlp_layer_types,
# no_rope_layers, ...
PER_LAYER = re.compile("layer")


def load_part(
    folder: str | Path,
    part_id: int,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    attention: str | None = None,
    verify: bool = True,
) -> Stage:
    """Load part `part_id` of a split checkpoint as a pipeline stage. dtype=auto keeps the checkpoint's dtype.

    With `verify`, every byte is compared with the manifest's digest before it is used.
    """
    started = time.perf_counter()
    mute_library_imports()
    manifest = read_manifest(folder, "folder")
    manifest.require_parts_runnable_as_stages("folder")
    if not 0 <= part_id < manifest.num_parts:
        raise ConfigError(
            f"part number out of range: {manifest.folder} has the parts 0 to {manifest.num_parts - 1}",
            key="part_id",
            value=part_id,
            code="bad_value",
        )
    entry = manifest.parts[part_id]
    is_first, is_last = part_id == 0, part_id == manifest.num_parts - 1
    config = _load_model_config(manifest)
    span = entry.layers
    assert span is not None  # require_parts_runnable_as_stages has rejected the others
    own = _make_part_config(manifest, config, span)
    _require_layers_match_full_model(manifest, config, own, span)
    require_intact_part(manifest, entry, "files" if verify else "quick")
    wanted = _resolve_dtype(dtype, config)
    state = _memory_map_tensors(manifest, entry, span, wanted)
    chosen = {"dtype": wanted} | ({} if attention is None else {"attn_implementation": attention})
    model, missing = _build_model_from_mapped_tensors(own, state, chosen) or _convert_tensors(
        own, state, chosen
    )
    del state
    path = _find_layers_path(model, manifest)
    layers = model.get_submodule(path)
    _require_needed_tensors(entry, model, missing, path, is_first, is_last)
    stage = Stage(model, layers, part_id, span, is_first, is_last, wanted)
    for name in sorted({key.rpartition(".")[0] for key in missing}):
        if f"{path}.".startswith(f"{name}."):
            raise _unsupported_family_error(
                manifest, config, f"the module {name or type(model).__name__} has weights outside the layers"
            )
        stage.replace_module_with_placeholder(name)
    meta = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not meta, f"part {part_id}: without values: {meta}"
    _set_generation_config(manifest.folder / MODEL_FILES, model)
    model.requires_grad_(False).eval().to(device)
    stage.load_s = time.perf_counter() - started
    return stage


def load_tokenizer(folder: str | Path) -> Any:
    """Load the tokenizer of a split checkpoint from its folder model_files/."""
    return load_model_tokenizer(f"model.name={folder}", Path(folder).expanduser().absolute() / MODEL_FILES)


# ------------------------------------------------------------------------------------------ what
# can be loaded


def _load_model_config(manifest: Manifest) -> Any:
    """Load the config of the whole model. Raises ConfigError if the model family cannot run in parts."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as KNOWN

    folder = manifest.folder / MODEL_FILES
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder} has no usable config: {to_one_line(error)}",
            key="folder",
            value=manifest.folder,
            code="unreadable",
        ) from error
    family = KNOWN.get(type(config), None)
    why = {
        "the weights are quantized": getattr(config, "quantization_config", None),
        "the model has an encoder and a decoder": getattr(config, "is_encoder_decoder", False),
        "the model is multimodal": config.get_text_config() is not config,
        "transformers has no causal language model class for the architecture": family is None,
        "layers of different parts share keys and values": getattr(config, "num_kv_shared_layers", 0),
        "the layers store a state that is not a KV cache": getattr(family, "_is_stateful", False),
    }
    if applying := [reason for reason, applies in why.items() if applies]:
        raise _unsupported_family_error(manifest, config, applying[0])
    return config


def _unsupported_family_error(manifest: Manifest, config: Any, reason: str) -> ConfigError:
    """Return a ConfigError that explains why a model family cannot run in parts, and suggests an
    alternative.
    """
    return ConfigError(
        f"model type {config.model_type} cannot run in parts: {reason}. To run it, {INSTEAD}",
        key=manifest.folder,
        code="unsupported",
    )


def _make_part_config(manifest: Manifest, config: Any, layer_range: tuple[int, int]) -> Any:
    """Return a copy of the model config that has only the layers in `layer_range`."""
    own = copy.deepcopy(config)
    count, (first, last) = manifest.num_layers, layer_range
    if config.num_hidden_layers != count:
        raise DataError(
            f"the manifest has {count} layers, but config.json has {config.num_hidden_layers}",
            key=manifest.folder,
            code="mismatch",
        )
    for key, value in vars(config).items():
        if PER_LAYER.search(key) and isinstance(value, list) and len(value) == count:
            setattr(own, key, value[first : last + 1])
    own.num_hidden_layers = last + 1 - first
    return own


def _find_layers_path(model: Any, manifest: Manifest) -> str:
    by_name = (manifest.prefix, f"{model.base_model_prefix}.{manifest.prefix}")
    lists = {
        path: module for path, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)
    }
    blocks = set(model._no_split_modules or ())
    of_blocks = [path for path, module in lists.items() if len(module) and type(module[0]).__name__ in blocks]
    candidates = [*(path for path in lists if path in by_name), *of_blocks]
    if not candidates:
        raise _unsupported_family_error(
            manifest, model.config, f"the manifest's prefix {manifest.prefix} matches no layers of the model"
        )
    return str(candidates[0])


def _require_layers_match_full_model(
    manifest: Manifest, config: Any, part_config: Any, layer_range: tuple[int, int]
) -> None:
    """Raise ConfigError if a layer in the part would differ from the same layer in the whole model.

    Some architectures depend on a layer's index in a way that a part's config cannot express.
    """
    layers, numbered = (_build_empty_layers(manifest, settings) for settings in (part_config, config))
    for offset, layer in enumerate(layers):
        number = layer_range[0] + offset
        here, there = _collect_layer_properties(layer), _collect_layer_properties(numbered[number])
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                why = f"layer {number} depends on its index, but its index in the part would be {offset}"
                differ = f"{key} is {there.get(key)} in the whole model, but {here.get(key)} in the part"
                raise _unsupported_family_error(manifest, config, f"{why} ({differ})")


def _build_empty_layers(manifest: Manifest, config: Any) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    return model.get_submodule(_find_layers_path(model, manifest))


def _collect_layer_properties(layer: torch.nn.Module) -> dict[str, Any]:
    traits: dict[str, Any] = {}
    for path, module in layer.named_modules():
        traits[path] = type(module).__name__
        for key, value in vars(module).items():
            if isinstance(value, bool | int | float | str) and "layer_id" not in key and key != "training":
                traits[f"{path}.{key}".lstrip(".")] = value
    traits |= {name: tuple(tensor.shape) for name, tensor in layer.named_parameters()}
    return traits


def _resolve_dtype(dtype: str | torch.dtype, config: Any) -> torch.dtype:
    """Convert a dtype name to a torch dtype. auto selects the checkpoint's dtype, or float32 if
    config.json has none.
    """
    if dtype == "auto":
        dtype = getattr(config, "dtype", None) or torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    named = getattr(torch, dtype, None)
    if not (isinstance(named, torch.dtype) and named.is_floating_point):
        raise ConfigError(
            "use auto, float32, bfloat16 or float16", key="dtype", value=dtype, code="unknown_choice"
        )
    return named


# -------------------------------------------------------------------------------------- the weights


def _memory_map_tensors(
    manifest: Manifest, entry: PartEntry, layer_range: tuple[int, int], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Memory-map the file of a part, and return its tensors by name. Layers are renumbered from 0."""
    from safetensors.torch import load_file

    first, last = layer_range
    pattern = re.compile(rf"{re.escape(manifest.prefix)}\.(\d+)\.(.+)")
    state = {}
    for name, tensor in load_file(manifest.folder / entry.stored.file).items():
        match = pattern.fullmatch(name)
        if match and int(match[1]) > last:
            continue  # numbers after the layers: heads that predict further tokens, not used here
        own = f"{manifest.prefix}.{int(match[1]) - first}.{match[2]}" if match else name
        state[own] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return state


def _build_model_from_mapped_tensors(
    config: Any, tensors: dict[str, torch.Tensor], model_options: dict[str, Any]
) -> tuple[Any, set[str]] | None:
    """Create a model whose parameters are the memory-mapped tensors, without copying them.

    Returns None if the names of tensors and parameters differ.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **model_options)
    if not tensors.keys() <= model.state_dict().keys():
        return None
    model.requires_grad_(False)
    model.load_state_dict(tensors, strict=False, assign=True)
    missing = {name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.is_meta}
    for target, source in model.all_tied_weights_keys.items():
        if target in missing and source not in missing:
            owner, _, leaf = target.rpartition(".")
            setattr(model.get_submodule(owner), leaf, model.get_parameter(source))
            missing.discard(target)
    return model, missing


def _convert_tensors(
    config: Any, tensors: dict[str, torch.Tensor], model_options: dict[str, Any]
) -> tuple[Any, set[str]]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as KNOWN

    settings = {"config": config, "state_dict": tensors, "output_loading_info": True, **model_options}
    family: Any = KNOWN[type(config)]
    logger = logging.getLogger("transformers")
    before = logger.level
    # it warns of newly initialized weights of other parts, which are discarded
    logger.setLevel(logging.ERROR)
    try:
        model, report = family.from_pretrained(None, **settings)
    finally:
        logger.setLevel(before)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return model, names & set(report["missing_keys"])


def _require_needed_tensors(
    entry: PartEntry, model: Any, missing_names: set[str], layers_path: str, is_first: bool, is_last: bool
) -> None:
    """Raise DataError if a part lacks a tensor that it needs to run."""
    needed = {name for name in missing_names if name.startswith(f"{layers_path}.")}
    for wanted, module in (
        (is_first, model.get_input_embeddings()),
        (is_last, model.get_output_embeddings()),
    ):
        if wanted and module is not None:
            own = {id(tensor) for tensor in module.parameters()}
            needed |= {name for name in missing_names if id(model.get_parameter(name)) in own}
    if needed:
        raise DataError(
            f"part {entry.part_id} ({entry.stored.file}) lacks the tensors {', '.join(sorted(needed)[:5])}",
            code="damaged",
        )


def _set_generation_config(folder: Path, model: Any) -> None:
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
