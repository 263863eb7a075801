"""Loading backend for quantized checkpoints. Loads the stored codes and scales unchanged into our own layers.

Headers are checked against the model's layers before anything is read. transformers then fills the
layers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner_base import ConfigError, DataError, join_first_names
from runner_engine.checkpoints.weight_files import TensorLocation, read_checkpoint
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.base import DtypesByName, StoredLayout, build_tensor_error
from runner_engine.models.layouts.float4 import Mxfp4Layout, Nvfp4Layout
from runner_engine.models.layouts.float8 import BlockFloat8Layout, Float8Layout
from runner_engine.models.layouts.hqq import HqqLayout
from runner_engine.models.layouts.int8 import Int8Layout
from runner_engine.models.layouts.integers import AwqLayout, GptqLayout, PackedLayout
from runner_engine.models.layouts.modelopt import ModelOptLayout
from runner_engine.models.layouts.ternary import TernaryLayout
from runner_engine.models.loading import fused_experts
from runner_engine.models.loading.contract import LoadingBackend, LoadingInfo
from runner_engine.models.loading.expert_paths import ModelPaths, adapt_conversions_to_separate_experts
from runner_engine.quantization import detect_stored_format, read_stored_quantization_config
from runner_engine.quantization.grouped import GroupedConfig, GroupSettings
from runner_engine.render.notes import render_engine_note

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


class Backend(LoadingBackend):
    """Replaces linear layers by our own quantized layers before transformers loads the tensors."""

    def load_model(self, arguments: dict[str, Any], rope_config: Any) -> tuple[Any, LoadingInfo]:
        """Load the model. Raises DataError if the checkpoint's tensors do not match the model's layers."""
        settings = read_stored_quantization_config(self.resolved.files.settings)
        of_layers = build_quantizer_arguments(self.folder, self.load_model_config(rope_config), settings)
        return super().load_model({**arguments, **of_layers}, rope_config)


def build_quantizer_arguments(folder: Path, config: Any, stored_config: dict[str, Any]) -> dict[str, Any]:
    """Return `from_pretrained` arguments that make transformers build our quantized layers."""
    for one in (config, config.get_text_config()):
        if hasattr(one, "quantization_config"):
            del one.quantization_config
    tensors = {tensor.name: tensor for tensor in read_checkpoint(folder).tensors}
    return {
        "config": config,
        "quantization_config": _register_quantizer()(tensors, _read_group_settings(stored_config)),
    }


# the tensors of each layer in its file, by the layer's path and their names
TensorsByLayer = dict[str, dict[str, TensorLocation]]


def replace_linear_layers_with_quantized(
    model: Any, tensors: dict[str, TensorLocation], group_settings: GroupSettings
) -> TensorsByLayer:
    """Replace the layers that are quantized in the checkpoint by our own quantized layers, which
    are still empty.

    Returns each layer's tensors by path.
    """
    used = fused_experts.replace_fused_experts_with_placeholders(model, tensors, group_settings)
    if group_settings.layout == fused_experts.LAYOUT:
        return {}
    kind = LAYOUTS[group_settings.layout]
    named_by = kind.named_by or next(iter(kind.types))
    named = {name.rpartition(".")[0] for name in tensors if name.endswith(f".{named_by}")}
    origins: TensorsByLayer = {}
    paths = ModelPaths(model)
    for stored_path in sorted(named):
        path = paths.find_layer_module_path(stored_path)
        module: Any = None if path is None else model.get_submodule(path)
        found = {name: tensors[full] for name in kind.types if (full := f"{stored_path}.{name}") in tensors}
        first = next(iter(found.values()))
        if path is None or type(module) is not nn.Linear:
            raise build_tensor_error(
                first, f"the model {type(model).__name__} has no linear layer with this name"
            )
        if path.split(".")[-1] == "lm_head" and model.config.get_text_config().tie_word_embeddings:
            raise build_tensor_error(
                first, "lm_head is quantized, but config.json ties it to the embedding (tie_word_embeddings)"
            )
        layout = kind.from_tensors(group_settings, found, module)
        layer = GroupedLinear(
            module, layout, {name: _create_meta_tensor(kind.types[name], one) for name, one in found.items()}
        )
        added = tensors.get(f"{stored_path}.bias")  # some programs add one to every layer
        if layer._parameters.get("bias") is None and added is not None:
            layer.bias = _create_meta_bias(added, module)
        model.set_submodule(path, layer)
        used |= {one.name for one in found.values()}
        origins[path] = found
    if left := sorted(
        name for name, one in tensors.items() if kind.requires_layout(one) and name not in used
    ):
        raise DataError(
            f"no layer uses {join_first_names(left)}. The checkpoint "
            f"lacks the matching {named_by}, or was made for another program",
            code="mismatch",
        )
    return origins


def check_loaded_numbers(model: Any, source_tensors: TensorsByLayer) -> None:
    """Raise DataError for scales that are not finite, and for group indices out of range."""
    for path, layer in model.named_modules():
        if not isinstance(layer, GroupedLinear):
            continue
        assert isinstance(layer.layout, StoredLayout)
        for name, tensor in layer.stored.items():
            where = source_tensors[path][name]
            if tensor.device.type == "meta":
                raise build_tensor_error(
                    where,
                    "quantized layers cannot be offloaded to disk. Give model.device_map more memory",
                    "unsupported",
                )
            if problem := layer.layout.find_invalid_numbers(layer.stored, name, tensor):
                raise build_tensor_error(where, render_engine_note(problem), "damaged")


def _read_group_settings(stored_config: dict[str, Any]) -> GroupSettings:
    """Parse the quantization_config section. Raises ConfigError for an unsupported variant."""
    form = detect_stored_format({"quantization_config": stored_config})
    assert form is not None
    assert isinstance(form.config, GroupedConfig)
    if form.refusal:
        reason = f"quantization_config: {render_engine_note(form.refusal)}"
        raise ConfigError(reason, key="config.json", code="unsupported")
    return form.config.parse_group_settings(stored_config)


def _create_meta_tensor(allowed_types: DtypesByName, tensor: TensorLocation) -> torch.Tensor:
    """Return an empty tensor on the meta device with the shape and dtype of a stored tensor.

    Raises DataError if the format does not allow the dtype.
    """
    if tensor.dtype not in allowed_types:
        raise build_tensor_error(
            tensor, f"the dtype is {tensor.dtype}, but {' or '.join(allowed_types)} is expected"
        )
    return torch.empty(tensor.shape, dtype=allowed_types[tensor.dtype], device="meta")


def _create_meta_bias(tensor: TensorLocation, module: nn.Linear) -> nn.Parameter:
    if tensor.shape != (module.out_features,):
        raise build_tensor_error(
            tensor,
            f"the bias has the shape {list(tensor.shape)}, but the layer has {module.out_features} outputs",
        )
    return nn.Parameter(
        torch.empty(tensor.shape, dtype=module.weight.dtype, device="meta"), requires_grad=False
    )


def _register_quantizer() -> Any:
    from transformers.quantizers import auto
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if METHOD in auto.AUTO_QUANTIZATION_CONFIG_MAPPING:
        return auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD]

    @auto.register_quantization_config(METHOD)
    class GroupsConfig(QuantizationConfigMixin):
        def __init__(self, tensors: dict[str, TensorLocation], group_settings: GroupSettings) -> None:
            self.quant_method: Any = METHOD
            self.tensors, self.settings = tensors, group_settings

    @auto.register_quantizer(METHOD)
    class GroupsQuantizer(HfQuantizer):
        quantization_config: GroupsConfig

        def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
            unused = [re.escape(end) + "$" for end in self.quantization_config.settings.unused]
            model._keys_to_ignore_on_load_unexpected = {
                *(model._keys_to_ignore_on_load_unexpected or ()),
                *unused,
            }
            self.origins = replace_linear_layers_with_quantized(
                model, self.quantization_config.tensors, self.quantization_config.settings
            )

        def update_weight_conversions(self, weight_conversions: Any, model: Any) -> Any:
            separate = adapt_conversions_to_separate_experts(model, weight_conversions)
            return super().update_weight_conversions(separate, model)  # type: ignore[no-untyped-call]

        def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
            check_loaded_numbers(
                model, self.origins | fused_experts.replace_placeholders_with_separate_experts(model)
            )
            self.remove_quantization_config(model)  # type: ignore[no-untyped-call]  # the layers are the model's own

        def is_serializable(self) -> bool:
            return False

        @property
        def is_trainable(self) -> bool:
            return False

    return GroupsConfig
