"""Loads a checkpoint whose linear layers are codes with scales: which of its tensors belong to
which layer.

Headers are checked against the model's layers before anything is read. transformers then fills the
layers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner_base import ConfigError, DataError, few
from runner_engine.checkpoints.weight_files import Tensor, read_checkpoint
from runner_engine.models.grouped import GroupedLinear
from runner_engine.models.layouts.base import StoredLayout, Types, wrong
from runner_engine.models.layouts.float4 import Mxfp4Layout, Nvfp4Layout
from runner_engine.models.layouts.float8 import BlockFloat8Layout, Float8Layout
from runner_engine.models.layouts.hqq import HqqLayout
from runner_engine.models.layouts.int8 import Int8Layout
from runner_engine.models.layouts.integers import AwqLayout, GptqLayout, PackedLayout
from runner_engine.models.layouts.modelopt import ModelOptLayout
from runner_engine.models.layouts.ternary import TernaryLayout
from runner_engine.models.loading import fused_codes
from runner_engine.models.loading.contract import Report, WayOfLoading
from runner_engine.models.loading.stored_experts import ModelPaths, names_for
from runner_engine.quantization import read_format, stored_settings
from runner_engine.quantization.grouped import GroupedConfig, GroupSettings
from runner_engine.render.notes import render

METHOD = "runner_groups"
LAYOUTS: dict[str, type[StoredLayout]] = {
    "gptq": GptqLayout,
    "awq": AwqLayout,
    "packed": PackedLayout,
    "int8": Int8Layout,
    "float8": Float8Layout,
    "float8_blocks": BlockFloat8Layout,
    "nvfp4_pack_quantized": Nvfp4Layout,
    "mxfp4_pack_quantized": Mxfp4Layout,
    "ternary": TernaryLayout,
    "hqq": HqqLayout,
    "modelopt": ModelOptLayout,
}


class Way(WayOfLoading):
    """transformers fills our own layers, which are put into the model before."""

    def read(self, arguments: dict[str, Any], scaled: Any) -> tuple[Any, Report]:
        """Return the model with its layers filled; DataError where tensors do not fit."""
        settings = stored_settings(self.resolved.files.settings)
        of_layers = layer_arguments(self.folder, self.own_settings(scaled), settings)
        return super().read({**arguments, **of_layers}, scaled)


def layer_arguments(folder: Path, config: Any, stored: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with which `from_pretrained` makes such layers; DataError where tensors
    do not fit."""
    for one in (config, config.get_text_config()):
        if hasattr(one, "quantization_config"):
            del one.quantization_config
    tensors = {tensor.name: tensor for tensor in read_checkpoint(folder).tensors}
    return {"config": config, "quantization_config": _config_class()(tensors, _settings(stored))}


# the tensors of each layer in its file, by the layer's path and their names
Origins = dict[str, dict[str, Tensor]]


def put_layers(model: Any, tensors: dict[str, Tensor], settings: GroupSettings) -> Origins:
    """Put a layer, without its numbers, in place of each linear layer that the checkpoint has as
    codes."""
    used = fused_codes.put_fused(model, tensors, settings)
    if settings.layout == fused_codes.LAYOUT:
        return {}
    kind = LAYOUTS[settings.layout]
    named_by = kind.named_by or next(iter(kind.types))
    named = {name.rpartition(".")[0] for name in tensors if name.endswith(f".{named_by}")}
    origins: Origins = {}
    paths = ModelPaths(model)
    for stored_path in sorted(named):
        path = paths.path_of(stored_path)
        module: Any = None if path is None else model.get_submodule(path)
        found = {name: tensors[full] for name in kind.types if (full := f"{stored_path}.{name}") in tensors}
        first = next(iter(found.values()))
        if path is None or type(module) is not nn.Linear:
            raise wrong(first, f"{type(model).__name__} has no linear layer of this name")
        if path.split(".")[-1] == "lm_head" and model.config.get_text_config().tie_word_embeddings:
            raise wrong(first, "config.json ties the head to the embedding (tie_word_embeddings)")
        layout = kind.of(settings, found, module)
        layer = GroupedLinear(
            module, layout, {name: _empty(kind.types[name], one) for name, one in found.items()}
        )
        added = tensors.get(f"{stored_path}.bias")  # some programs add one to every layer
        if layer._parameters.get("bias") is None and added is not None:
            layer.bias = _empty_bias(added, module)
        model.set_submodule(path, layer)
        used |= {one.name for one in found.values()}
        origins[path] = found
    if left := sorted(name for name, one in tensors.items() if kind.is_needed(one) and name not in used):
        raise DataError(
            f"{few(left)} belong to no layer: the checkpoint lacks the {named_by} beside, or another program's "
            "layers are needed",
            code="mismatch",
        )
    return origins


def check_numbers(model: Any, origins: Origins) -> None:
    """Reject scales that are no numbers, and groups that do not exist: DataError with tensor and
    file."""
    for path, layer in model.named_modules():
        if not isinstance(layer, GroupedLinear):
            continue
        assert isinstance(layer.layout, StoredLayout)
        for name, tensor in layer.stored.items():
            where = origins[path][name]
            if tensor.device.type == "meta":
                raise wrong(
                    where,
                    "layers of codes cannot be on disk: give model.device_map more memory",
                    "unsupported",
                )
            if problem := layer.layout.problem(layer.stored, name, tensor):
                raise wrong(where, render(problem), "damaged")


def _settings(stored: dict[str, Any]) -> GroupSettings:
    """Return what a quantization_config says about its layers; ConfigError for a variant that is
    not read."""
    form = read_format({"quantization_config": stored})
    assert form is not None
    assert isinstance(form.config, GroupedConfig)
    if form.refusal:
        reason = f"quantization_config: {render(form.refusal)}"
        raise ConfigError(reason, key="config.json", code="unsupported")
    return form.config.settings_of(stored)


def _empty(expected: Types, tensor: Tensor) -> torch.Tensor:
    """Return a tensor without memory, of the type that the format has; DataError for any other."""
    if tensor.dtype not in expected:
        raise wrong(tensor, f"{tensor.dtype}, and {' or '.join(expected)} expected")
    return torch.empty(tensor.shape, dtype=expected[tensor.dtype], device="meta")


def _empty_bias(tensor: Tensor, module: nn.Linear) -> nn.Parameter:
    if tensor.shape != (module.out_features,):
        raise wrong(tensor, f"{list(tensor.shape)}, and the layer has {module.out_features} outputs")
    return nn.Parameter(
        torch.empty(tensor.shape, dtype=module.weight.dtype, device="meta"), requires_grad=False
    )


def _config_class() -> Any:
    """Return the class that transformers gets for such checkpoints; it is made known to
    transformers once."""
    from transformers.quantizers import auto
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if METHOD in auto.AUTO_QUANTIZATION_CONFIG_MAPPING:
        return auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD]

    @auto.register_quantization_config(METHOD)
    class GroupsConfig(QuantizationConfigMixin):
        def __init__(self, tensors: dict[str, Tensor], settings: GroupSettings) -> None:
            self.quant_method: Any = METHOD
            self.tensors, self.settings = tensors, settings

    @auto.register_quantizer(METHOD)
    class GroupsQuantizer(HfQuantizer):
        quantization_config: GroupsConfig

        def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
            unused = [re.escape(end) + "$" for end in self.quantization_config.settings.unused]
            model._keys_to_ignore_on_load_unexpected = {
                *(model._keys_to_ignore_on_load_unexpected or ()),
                *unused,
            }
            self.origins = put_layers(
                model, self.quantization_config.tensors, self.quantization_config.settings
            )

        def update_weight_conversions(self, weight_conversions: Any, model: Any) -> Any:
            separate = names_for(model, weight_conversions)
            return super().update_weight_conversions(separate, model)  # type: ignore[no-untyped-call]

        def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
            check_numbers(model, self.origins | fused_codes.take_apart(model))
            self.remove_quantization_config(model)  # type: ignore[no-untyped-call]  # the layers are the model's own

        def is_serializable(self) -> bool:
            return False

        @property
        def is_trainable(self) -> bool:
            return False

    return GroupsConfig
