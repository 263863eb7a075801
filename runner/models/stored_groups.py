"""Loads a checkpoint whose linear layers are groups of integers: which of its tensors belong to which layer.

Headers are checked against the model's layers before anything is read. transformers then fills the layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner.checkpoints.weight_files import Tensor, read_checkpoint
from runner.core.errors import DataError, few
from runner.models.group_layouts import AwqLayout, GptqLayout, Layout, PackedLayout
from runner.models.grouped import GroupedLinear
from runner.models.int8_linear import Int8Layout, layer_of
from runner.quantization.grouped import GroupSettings, settings_of
from runner.quantization.int_quantized import IntQuantizedConfig
from runner.quantization.int_quantized import settings_of as int8_settings_of

METHOD = "runner_groups"
LAYOUTS: dict[str, type[Layout]] = {"gptq": GptqLayout, "awq": AwqLayout, "packed": PackedLayout, "int8": Int8Layout}
SCALES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
BYTES = {"I8": torch.int8}
ORDERS = {"I32": torch.int32, "I64": torch.int64}
MAX_INPUTS = 2**24  # a layer's inputs and groups are counted in numbers that C can hold


def arguments(folder: Path, config: Any, stored: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with which `from_pretrained` makes grouped layers; DataError where tensors do not fit."""
    for one in (config, config.get_text_config()):
        if hasattr(one, "quantization_config"):
            del one.quantization_config
    tensors = {tensor.name: tensor for tensor in read_checkpoint(folder).tensors}
    read = int8_settings_of if IntQuantizedConfig.is_own(stored) else settings_of
    return {"config": config, "quantization_config": _config_class()(tensors, read(stored))}


def put_layers(model: Any, tensors: dict[str, Tensor], settings: GroupSettings) -> None:
    """Put a grouped layer, without its numbers, in place of each linear layer that the checkpoint has as such."""
    kind = LAYOUTS[settings.layout]
    named = {name.rpartition(".")[0] for name in tensors if name.endswith(f".{kind.named_by or kind.names[0]}")}
    packed = {name for name in tensors if name.rpartition(".")[2] in kind.names and not name.endswith(".weight")}
    used: set[str] = set()
    for stored_path in sorted(named):
        path = _path_in(model, stored_path)
        module: Any = None if path is None else model.get_submodule(path)
        found = {name: tensors[full] for name in kind.names if (full := f"{stored_path}.{name}") in tensors}
        codes = found.get(kind.names[0], next(iter(found.values())))
        if path is None or type(module) is not nn.Linear:
            raise _error(codes, f"{type(model).__name__} has no linear layer of this name")
        if path.split(".")[-1] == "lm_head" and model.config.get_text_config().tie_word_embeddings:
            raise _error(codes, "config.json ties the head to the embedding (tie_word_embeddings)")
        layout = _layout_of(kind, settings, found, module)
        layer = layer_of(module, layout, {name: _empty(name, one, layout) for name, one in found.items()})
        added = tensors.get(f"{stored_path}.bias")  # some programs add one to every layer
        if layer._parameters.get("bias") is None and added is not None:
            layer.bias = _empty_bias(added, module)
        model.set_submodule(path, layer)
        used |= {one.name for one in found.values()}
    if kind is Int8Layout:  # bytes without a scale would be loaded as if they were weights
        packed |= {name for name, one in tensors.items() if name.endswith(".weight") and one.dtype == "I8"}
    if left := sorted(packed - used):
        raise DataError(
            f"{few(left)} belong to no layer: the checkpoint lacks the {kind.named_by or kind.names[0]} beside, or "
            "another program's layers are needed"
        )


def check_numbers(model: Any, tensors: dict[str, Tensor]) -> None:
    """Reject scales that are no numbers, and groups that do not exist: DataError with tensor and file."""
    for path, layer in model.named_modules():
        if not isinstance(layer, GroupedLinear):
            continue
        layout, stored = layer.layout, layer.stored
        for name, tensor in stored.items():
            where = next((one for full, one in tensors.items() if _ends(full, path, name)), None)
            assert where is not None
            if tensor.device.type == "meta":
                raise _error(where, "layers of groups cannot be on disk: give model.device_map more memory")
            if name in (layout.scale_name, "input_scale") and not tensor.isfinite().all():
                raise _error(where, "a scale is not a finite number")
            if name == "input_scale" and not (tensor > 0).all():
                raise _error(where, "a scale is not above 0")
            if isinstance(layout, Int8Layout) and name == "weight_zero_point" and tensor.any():
                raise _error(where, "symmetric weights have zero points of 0")
            if name == layout.order_name and layer.group_of is not None:
                low, high = int(tensor.min()), int(tensor.max())
                if low < 0 or high >= layout.groups:
                    raise _error(
                        where, f"an input is in group {low if low < 0 else high}, and there are {layout.groups}"
                    )
            if name == "weight_shape" and tensor.tolist() != [layer.out_features, layer.in_features]:
                raise _error(where, f"{tensor.tolist()}, and the layer is {[layer.out_features, layer.in_features]}")


def _layout_of(kind: type[Layout], settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Layout:
    """Return the layout of a layer from its tensors, which must have the shapes that belong together."""
    if kind is Int8Layout:
        return _int8_layout_of(settings, found, module)
    codes, inputs, outputs = found[kind.names[0]], module.in_features, module.out_features
    optional = {kind.order_name, "weight_zero_point"}
    if lacking := [name for name in kind.names if name not in found and name not in optional]:
        raise _error(codes, f"the checkpoint lacks its {' and '.join(lacking)}")
    scales = found[kind.scale_name]
    if len(scales.shape) != 2 or len(codes.shape) != 2 or inputs >= MAX_INPUTS:
        raise _error(codes, f"{list(codes.shape)} with scales {list(scales.shape)}: matrices expected")
    groups = scales.shape[1 if kind is PackedLayout else 0]
    bits = _bits_of(kind, settings, codes, inputs)
    group = inputs if settings.group == -1 else min(settings.group, inputs)
    if groups < 1 or (-(-inputs // group) != groups and inputs % groups):
        raise _error(scales, f"{list(scales.shape)} for {inputs} inputs in groups of {group}")
    if -(-inputs // group) != groups:
        group = inputs // groups  # the layer has settings of its own
    extra = {"is_minus_one": settings.is_minus_one} if kind is GptqLayout else {}
    layout = kind(bits, group, inputs, outputs, **extra)
    for name, expected in layout.shapes().items():
        one = found.get(name)
        if one is not None and one.shape != expected:
            raise _error(
                one, f"{list(one.shape)}, and a layer of {inputs} inputs, {outputs} outputs has {list(expected)}"
            )
    return layout


def _int8_layout_of(settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Int8Layout:
    """Return the layout of int8 weights, whose scales are one for each output or one for all."""
    inputs, outputs = module.in_features, module.out_features
    needed = ["weight", "weight_scale"] + ["input_scale"] * (settings.rows == "static")
    if lacking := [name for name in needed if name not in found]:
        raise _error(next(iter(found.values())), f"the checkpoint lacks its {' and '.join(lacking)}")
    ones: list[tuple[int, ...]] = [(), (1,), (1, 1)]
    for name, one in found.items():
        of_outputs = [(outputs,), (outputs, 1), *ones]
        fitting = [(outputs, inputs)] if name == "weight" else ones if name.startswith("input") else of_outputs
        if tuple(one.shape) not in fitting or inputs >= MAX_INPUTS:
            expected = " or ".join(str(list(shape)) for shape in fitting)
            raise _error(one, f"{list(one.shape)}, and a layer of {inputs} inputs, {outputs} outputs has {expected}")
    return Int8Layout(8, inputs, inputs, outputs, rows=settings.rows)


def _bits_of(kind: type[Layout], settings: GroupSettings, codes: Tensor, inputs: int) -> int:
    """Return the bits of a layer's codes, which follow from their size."""
    if kind is AwqLayout:
        return 4
    if kind is GptqLayout:
        bits, rest = divmod(codes.shape[0] * 32, inputs)
        if rest or bits not in range(2, 9):
            raise _error(codes, f"{list(codes.shape)} for {inputs} inputs: 2 to 8 bits of each expected")
        return bits
    fitting = [bits for bits in settings.bits if -(-inputs * bits // 32) == codes.shape[1]]
    if not fitting:
        raise _error(codes, f"{list(codes.shape)} for {inputs} inputs of {' or '.join(map(str, settings.bits))} bits")
    return fitting[0]


def _empty(name: str, tensor: Tensor, layout: Layout) -> torch.Tensor:
    """Return a tensor without memory, of the type that the format has; DataError for any other."""
    types = {layout.scale_name: SCALES, layout.order_name: ORDERS, "weight_shape": ORDERS}
    if isinstance(layout, Int8Layout):
        types |= {"input_scale": SCALES, **dict.fromkeys(("weight", "weight_zero_point", "input_zero_point"), BYTES)}
    expected = types.get(name, {"I32": torch.int32})
    if tensor.dtype not in expected:
        raise _error(tensor, f"{tensor.dtype}, and {' or '.join(expected)} expected")
    return torch.empty(tensor.shape, dtype=expected[tensor.dtype], device="meta")


def _empty_bias(tensor: Tensor, module: nn.Linear) -> nn.Parameter:
    if tensor.shape != (module.out_features,):
        raise _error(tensor, f"{list(tensor.shape)}, and the layer has {module.out_features} outputs")
    return nn.Parameter(torch.empty(tensor.shape, dtype=module.weight.dtype, device="meta"), requires_grad=False)


def _path_in(model: Any, stored: str) -> str | None:
    """Return a layer's path in the model: a checkpoint may be of the model within it, or of one around it."""
    known, prefix = {path for path, _ in model.named_modules()}, f"{model.base_model_prefix}."
    return next((path for path in (stored, prefix + stored, stored.removeprefix(prefix)) if path in known), None)


def _ends(full: str, path: str, name: str) -> bool:
    """Whether a stored tensor is this one of a layer."""
    stored, _, last = full.rpartition(".")
    return last == name and (stored == path or path.endswith(f".{stored}") or stored.endswith(f".{path}"))


def _error(tensor: Tensor, what: str) -> DataError:
    return DataError(f"{tensor.file}: tensor {tensor.name}: {what}")


def _config_class() -> Any:
    """Return the class that transformers gets for such checkpoints; it is made known to transformers once."""
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
            put_layers(model, self.quantization_config.tensors, self.quantization_config.settings)

        def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
            check_numbers(model, self.quantization_config.tensors)
            self.remove_quantization_config(model)  # type: ignore[no-untyped-call]  # the layers are the model's own

        def is_serializable(self) -> bool:
            return False

        @property
        def is_trainable(self) -> bool:
            return False

    return GroupsConfig
