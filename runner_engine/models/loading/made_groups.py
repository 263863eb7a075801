"""Makes layers of integers in groups from ordinary weights, one after another as transformers reads
them.

HQQ's codes equal those of the package hqq bit for bit. The package is not used: transformers
imports it wherever it is installed, and with it torch's compiler.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_base import ConfigError, DataError
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.models.grouped import GroupedLinear
from runner_engine.models.layouts.made import RowsLayout, pack_stream
from runner_engine.models.loading.contract import WayOfLoading
from runner_engine.models.loading.unfit import leave_unfit, reason_of
from runner_engine.quantization.made_groups import CodedGroups, MadeGroupsConfig

METHOD = "runner_made_groups"


class Way(WayOfLoading):
    """transformers reads a plain checkpoint, and each weight becomes one of our layers as it
    comes."""

    def prepare(self) -> dict[str, Any]:
        """Return the arguments with which transformers makes the layers."""
        choice = made_by(self.resolved)
        return choice.load_arguments() | layer_arguments(choice)


def made_by(resolved: ResolvedModel) -> MadeGroupsConfig:
    """Return the choice that makes a model's layers."""
    choice = resolved.mix.base
    assert isinstance(choice, MadeGroupsConfig)
    return choice


def layer_arguments(choice: MadeGroupsConfig) -> dict[str, Any]:
    """Return the arguments with which `from_pretrained` makes the layers."""
    return {"quantization_config": _config_class()(choice)}


def layer_of(choice: MadeGroupsConfig, layer: nn.Module, path: str) -> nn.Module:
    """Return a plain linear layer in this format; any other is returned as it is."""
    if type(layer) is not nn.Linear:
        return layer
    if reason := choice.unfit(layer.out_features, layer.in_features, layer.weight.device.type):
        raise ConfigError(f"{path} {reason}", key="quantization", value=choice.name, code="unsupported")
    weight = layer.weight.detach()
    if not weight.isfinite().all():
        raise DataError(
            f"{path}.weight: a number is not finite, and quantization={choice.name} cannot quantize it",
            code="damaged",
        )
    return grouped(choice, layer, choice.groups_of(weight))


def adopt(choice: MadeGroupsConfig, model: nn.Module, where: str) -> None:
    """Put layers of ours in place of those that the choice's library has loaded from a
    checkpoint."""
    for path, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear:
            continue
        try:
            made = choice.stored_groups_of(layer.weight)
        except ValueError as error:
            raise DataError(f"tensor {path}.weight: {error}", key=where, code="damaged") from error
        if made is not None:
            model.set_submodule(path, grouped(choice, layer, made))


def grouped(choice: MadeGroupsConfig, like: nn.Linear, made: CodedGroups) -> GroupedLinear:
    """Return a layer that holds the codes in as many bits as they have."""
    rows = "dynamic" if choice.rounds_rows else ""
    layout = RowsLayout(choice.bits, choice.group_size, like.in_features, like.out_features, rows=rows)
    stored = {"codes": pack_stream(made.codes, choice.bits), "scales": made.scales, "zero_points": made.zeros}
    layer = GroupedLinear(like, layout, {name: tensor.contiguous() for name, tensor in stored.items()})
    layer.has_byte_rows = choice.has_byte_rows
    return layer


def _config_class() -> Any:
    """Return the class that transformers gets for such models; it is made known to transformers
    once."""
    from transformers.core_model_loading import ConversionOps
    from transformers.quantizers import auto
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if METHOD in auto.AUTO_QUANTIZATION_CONFIG_MAPPING:
        return auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD]

    @auto.register_quantization_config(METHOD)
    class MadeGroups(QuantizationConfigMixin):
        def __init__(self, choice: MadeGroupsConfig) -> None:
            self.quant_method: Any = METHOD
            self.choice = choice

    class MakeGroups(ConversionOps):
        def __init__(self, choice: MadeGroupsConfig) -> None:
            self.choice = choice

        def convert(
            self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str],
            full_layer_name: str = "", model: Any = None, missing_keys: set[str] | None = None, **kwargs: Any,
        ) -> dict[str, list[torch.Tensor]]:  # fmt: skip
            value = next(iter(input_dict.values()))
            path = full_layer_name.removesuffix(".weight")
            layer = model.get_submodule(path)
            layer.weight = nn.Parameter(value[0] if isinstance(value, list) else value, requires_grad=False)
            made: Any = layer_of(self.choice, layer, path)
            made._is_hf_initialized = True
            for tensor in made.stored.values():
                tensor._is_hf_initialized = True
            model.set_submodule(path, made)
            if missing_keys is not None:
                missing_keys.discard(full_layer_name)
            return {}

    @auto.register_quantizer(METHOD)
    class MadeGroupsQuantizer(HfQuantizer):
        quantization_config: MadeGroups

        def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
            self.left_alone = self.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
            layers = {path: one for path, one in model.named_modules() if self._is_wanted(path, one)}
            leave_unfit(self.quantization_config.choice, model, layers)

        def _is_made(self, path: str, module: nn.Module) -> bool:
            choice = self.quantization_config.choice
            return self._is_wanted(path, module) and not reason_of(choice, module, "cpu")

        def _is_wanted(self, path: str, module: nn.Module) -> bool:
            return type(module) is nn.Linear and should_convert_module(path, self.left_alone)

        def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
            path, _, last = param_name.rpartition(".")
            return last == "weight" and self._is_made(path, model.get_submodule(path))

        def get_quantize_ops(self) -> MakeGroups:
            return MakeGroups(self.quantization_config.choice)

        def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
            self.remove_quantization_config(model)  # type: ignore[no-untyped-call]  # the layers are the model's own

        def is_serializable(self) -> bool:
            return False

        @property
        def is_trainable(self) -> bool:
            return False

    return MadeGroups
