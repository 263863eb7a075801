"""Loading backend that quantizes an unquantized checkpoint into our group-quantized layers.

HQQ's codes equal those of the package hqq bit for bit. The package is not used: transformers
imports it wherever it is installed, and with it torch's compiler.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_base import ConfigError, DataError
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.load_time import OutputMajorLayout, pack_bits
from runner_engine.models.loading.contract import LoadingBackend
from runner_engine.models.loading.unquantizable_layers import (
    find_unquantizable_layers,
    find_unquantizable_reason,
)
from runner_engine.quantization.load_time_groups import CodedGroups, LoadTimeGroupsConfig

METHOD = "runner_made_groups"


class Backend(LoadingBackend):
    def prepare_arguments(self) -> dict[str, Any]:
        choice = get_load_time_quantization(self.resolved)
        return choice.build_load_arguments() | build_quantizer_arguments(choice)


def get_load_time_quantization(resolved: ResolvedModel) -> LoadTimeGroupsConfig:
    """Return the model's load-time quantization config."""
    choice = resolved.quantization_mix.base
    assert isinstance(choice, LoadTimeGroupsConfig)
    return choice


def build_quantizer_arguments(config: LoadTimeGroupsConfig) -> dict[str, Any]:
    """Return `from_pretrained` arguments that quantize each layer at load time."""
    return {"quantization_config": _register_quantizer()(config)}


def quantize_linear(config: LoadTimeGroupsConfig, layer: nn.Module, path: str) -> nn.Module:
    """Quantize a plain linear layer. Any other module is returned unchanged."""
    if type(layer) is not nn.Linear:
        return layer
    if reason := config.find_unquantizable_reason(
        layer.out_features, layer.in_features, layer.weight.device.type
    ):
        raise ConfigError(f"{path} {reason}", key="quantization", value=config.name, code="unsupported")
    weight = layer.weight.detach()
    if not weight.isfinite().all():
        raise DataError(
            f"{path}.weight: quantization={config.name} cannot quantize NaN or infinity", code="damaged"
        )
    return build_grouped_linear(config, layer, config.quantize_weight(weight))


def replace_library_layers(config: LoadTimeGroupsConfig, model: nn.Module, checkpoint: str) -> None:
    """Replace the library's quantized layers by our own layers with the same codes."""
    for path, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear:
            continue
        try:
            made = config.extract_stored_groups(layer.weight)
        except ValueError as error:
            raise DataError(f"tensor {path}.weight: {error}", key=checkpoint, code="damaged") from error
        if made is not None:
            model.set_submodule(path, build_grouped_linear(config, layer, made))


def build_grouped_linear(
    config: LoadTimeGroupsConfig, original: nn.Linear, quantized_weight: CodedGroups
) -> GroupedLinear:
    """Build a quantized layer that stores its codes bit-packed."""
    rows = "dynamic" if config.rounds_activations else ""
    layout = OutputMajorLayout(
        config.bits, config.group_size, original.in_features, original.out_features, rows=rows
    )
    stored = {
        "codes": pack_bits(quantized_weight.codes, config.bits),
        "scales": quantized_weight.scales,
        "zero_points": quantized_weight.zeros,
    }
    layer = GroupedLinear(original, layout, {name: tensor.contiguous() for name, tensor in stored.items()})
    layer.has_byte_rows = config.has_int8_activations
    return layer


def _register_quantizer() -> Any:
    from transformers.core_model_loading import ConversionOps
    from transformers.quantizers import auto
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if METHOD in auto.AUTO_QUANTIZATION_CONFIG_MAPPING:
        return auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD]

    @auto.register_quantization_config(METHOD)
    class MadeGroups(QuantizationConfigMixin):
        def __init__(self, config: LoadTimeGroupsConfig) -> None:
            self.quant_method: Any = METHOD
            self.choice = config

    class QuantizeGroupsOp(ConversionOps):
        def __init__(self, config: LoadTimeGroupsConfig) -> None:
            self.choice = config

        def convert(
            self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str],
            full_layer_name: str = "", model: Any = None, missing_keys: set[str] | None = None, **kwargs: Any,
        ) -> dict[str, list[torch.Tensor]]:  # fmt: skip
            value = next(iter(input_dict.values()))
            path = full_layer_name.removesuffix(".weight")
            layer = model.get_submodule(path)
            layer.weight = nn.Parameter(value[0] if isinstance(value, list) else value, requires_grad=False)
            made: Any = quantize_linear(self.choice, layer, path)
            made._is_hf_initialized = True
            for tensor in made.stored.values():
                tensor._is_hf_initialized = True
            model.set_submodule(path, made)
            if missing_keys is not None:
                missing_keys.discard(full_layer_name)
            return {}

    @auto.register_quantizer(METHOD)
    class LoadTimeGroupsQuantizer(HfQuantizer):
        quantization_config: MadeGroups

        def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
            self.left_alone = self.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
            layers = {path: one for path, one in model.named_modules() if self._is_eligible(path, one)}
            find_unquantizable_layers(self.quantization_config.choice, model, layers)

        def _should_quantize(self, path: str, module: nn.Module) -> bool:
            choice = self.quantization_config.choice
            return self._is_eligible(path, module) and not find_unquantizable_reason(choice, module, "cpu")

        def _is_eligible(self, path: str, module: nn.Module) -> bool:
            return type(module) is nn.Linear and should_convert_module(path, self.left_alone)

        def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
            path, _, last = param_name.rpartition(".")
            return last == "weight" and self._should_quantize(path, model.get_submodule(path))

        def get_quantize_ops(self) -> QuantizeGroupsOp:
            return QuantizeGroupsOp(self.quantization_config.choice)

        def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
            self.remove_quantization_config(model)  # type: ignore[no-untyped-call]  # the layers are the model's own

        def is_serializable(self) -> bool:
            return False

        @property
        def is_trainable(self) -> bool:
            return False

    return MadeGroups
