"""Which model families can run in parts, and the config that describes one part to transformers."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from runner.core.errors import ConfigError, DataError
from runner.sharding.manifest import MODEL_FILES, Manifest

if TYPE_CHECKING:
    import torch

INSTEAD = "put the parts back together with task=merge and run the whole model"
# a per-layer list in a config, whatever the family calls it: layer_types, mlp_layer_types, no_rope_layers, ...
PER_LAYER = re.compile("layer")


def require_runnable(manifest: Manifest, key: str = "task.parts") -> None:
    """Refuse a split whose parts cannot run as stages: an archive, or parts that are not cut between layers."""
    manifest.refuse_archive(key)
    whole = all(part.layers is not None for part in manifest.parts)
    if not (manifest.contiguous and whole):
        raise ConfigError(
            f"{key}={manifest.folder}: the parts of strategy {manifest.strategy['name']} are not runs of whole layers, "
            f"so none of them can run: split by layers (task.strategy=balanced_bytes), or {INSTEAD}"
        )


def model_config(manifest: Manifest) -> Any:
    """Return the config of the whole model; refuses families whose layers cannot run apart."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as KNOWN

    place = manifest.folder / MODEL_FILES
    try:
        config = AutoConfig.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"folder={manifest.folder}: no usable config in {place}: {one_line(error)}") from error
    why = None
    if getattr(config, "quantization_config", None):
        why = "its weights are quantized"
    elif getattr(config, "is_encoder_decoder", False):
        why = "it has an encoder and a decoder"
    elif config.get_text_config() is not config:
        why = "it is more than a language model"
    elif type(config) not in KNOWN:
        why = "transformers knows it by no causal language model"
    elif getattr(config, "num_kv_shared_layers", 0):
        why = "its layers share keys and values across parts"
    elif getattr(KNOWN[type(config)], "_is_stateful", False):
        why = "its layers keep a state that is no key-value cache"
    if why is not None:
        raise cannot_run(manifest, config, why)
    return config


def cannot_run(manifest: Manifest, config: Any, why: str) -> ConfigError:
    """Say why a family cannot run in parts, and what to do instead."""
    return ConfigError(f"{manifest.folder}: {config.model_type} cannot be run in parts: {why}; {INSTEAD}")


def part_config(manifest: Manifest, config: Any, span: tuple[int, int]) -> Any:
    """Return a copy of the config that describes a model of these layers only."""
    own = copy.deepcopy(config)
    count, (first, last) = manifest.num_layers, span
    if config.num_hidden_layers != count:
        raise DataError(f"{manifest.folder}: {count} layers in the manifest, {config.num_hidden_layers} in config.json")
    for key, value in vars(config).items():
        if PER_LAYER.search(key) and isinstance(value, list) and len(value) == count:
            setattr(own, key, value[first : last + 1])
    own.num_hidden_layers = last + 1 - first
    return own


def layers_path(model: Any, manifest: Manifest) -> str:
    """Return the path of the layers: what the manifest says, else the outermost list of the family's own blocks."""
    from torch.nn import ModuleList

    blocks = set(model._no_split_modules or ())
    by_name = (manifest.prefix, f"{model.base_model_prefix}.{manifest.prefix}")
    found = ""
    for path, module in model.named_modules():
        if not isinstance(module, ModuleList):
            continue
        if path in by_name:
            return str(path)
        if not found and len(module) and type(module[0]).__name__ in blocks:
            found = path
    if not found:
        raise cannot_run(manifest, model.config, f"its layers are not found under {manifest.prefix}")
    return found


def require_same_layers(manifest: Manifest, config: Any, own: Any, span: tuple[int, int]) -> None:
    """Refuse a family whose layers depend on their number in a way that the part's config cannot express."""
    layers, numbered = (_layers(manifest, one) for one in (own, config))
    for offset, layer in enumerate(layers):
        here, there = _traits(layer), _traits(numbered[span[0] + offset])
        differ = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
        if differ:
            raise cannot_run(
                manifest,
                config,
                f"layer {span[0] + offset} would be another one as number {offset} of a part ({differ[0]}: "
                f"{there.get(differ[0])} in the whole model, {here.get(differ[0])} here)",
            )


def _layers(manifest: Manifest, config: Any) -> Any:
    """Return the layers of a model without weights."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    return model.get_submodule(layers_path(model, manifest))


def _traits(layer: torch.nn.Module) -> dict[str, Any]:
    """Return what describes a layer apart from its number: classes, shapes, plain values."""
    traits: dict[str, Any] = {}
    for path, module in layer.named_modules():
        traits[path] = type(module).__name__
        for key, value in vars(module).items():
            if isinstance(value, bool | int | float | str) and "layer_id" not in key and key != "training":
                traits[f"{path}.{key}".lstrip(".")] = value
    traits |= {name: tuple(tensor.shape) for name, tensor in layer.named_parameters()}
    return traits


def one_line(error: Exception) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())[:300]
