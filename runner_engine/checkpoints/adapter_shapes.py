"""Checks whether a PEFT adapter fits a checkpoint. Reads only file headers, and imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from runner_base import ConfigError, load_json_object
from runner_engine.checkpoints.linear_layers import will_separate_experts
from runner_engine.checkpoints.resolved_model import ModelFiles, read_tensor_headers
from runner_engine.quantization.quantization_mix import QuantizationMix

KEY = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")
# by the path of the module: the shapes of A [r, in] and B [out, r]
Shapes = dict[str, dict[str, tuple[int, ...]]]


def read_adapter_shapes(folder: Path) -> Shapes:
    shapes: Shapes = {}
    for tensor in read_tensor_headers(folder):
        if match := KEY.fullmatch(tensor.name):
            shapes.setdefault(match["path"], {})[match["side"]] = tensor.shape
    return shapes


def check_adapter_shapes(files: ModelFiles) -> None:
    """Raise ConfigError if an adapter's matrices do not match the shapes of the checkpoint's layers.

    Cases that headers cannot decide (packed weights, a .gguf file, a pickled adapter) are checked
    on the loaded base model.
    """
    lora, folder = files.lora, files.adapter
    if lora is None or folder is None or not (folder / "adapter_model.safetensors").is_file():
        return
    settings = load_json_object(folder / "adapter_config.json")
    if settings.get("peft_type") != "LORA" or files.stored_format is not None or not files.path.is_dir():
        return
    shapes = read_adapter_shapes(folder)
    layers = {
        tensor.name.removesuffix(".weight"): tensor.shape
        for tensor in files.tensors
        if tensor.name.endswith(".weight")
    }
    label = f"{lora.label} does not fit model.name={files.model.name}"
    if shapes and layers and not _extract_module_names(shapes) & _extract_module_names(layers):
        raise ConfigError(
            f"the base model has none of the adapter's {len(shapes)} modules ({', '.join([*shapes][:3])}). "
            "Use the base model that the adapter was trained on"
            f"{_format_base_hint(settings.get('base_model_name_or_path'))}",
            key=label,
            code="not_found",
        )
    for path, sides in shapes.items():
        a, b, shape = sides.get("A"), sides.get("B"), layers.get(path)
        if a is None or b is None or shape is None or not len(a) == len(b) == len(shape) == 2:
            continue
        if a[0] != b[1] or sorted((b[0], a[1])) != sorted(shape):  # some layers are stored transposed
            raise ConfigError(
                f"size mismatch for {path}: A {list(a)} and B {list(b)} need shape {[b[0], a[1]]}, "
                f"but the layer of {files.model.name} has shape "
                f"{list(shape)}{_format_base_hint(settings.get('base_model_name_or_path'))}",
                key=label,
                code="mismatch",
            )


def check_adapter_allows_separate_experts(files: ModelFiles, quantization_mix: QuantizationMix) -> None:
    folder = files.adapter
    if (
        folder is None
        or not (folder / "adapter_model.safetensors").is_file()
        or not will_separate_experts(files, quantization_mix)
    ):
        return
    if fused := [
        path for path in read_adapter_shapes(folder) if path.removesuffix(".base_layer").endswith(".experts")
    ]:
        raise ConfigError(
            f"the adapter changes all experts of a layer at once ({fused[0]}), but quantization "
            "separates the experts. Use quantization=none, or quantization.skip=[experts]",
            key="quantization",
            value=quantization_mix.base.label,
            code="conflict",
        )


def _extract_module_names(paths: Iterable[str]) -> set[str]:
    """Return the last component of each module path.

    The other components may differ between a checkpoint and the loaded model.
    """
    return {path.rpartition(".")[2] for path in paths}


def _format_base_hint(base_name: object) -> str:
    return f" (it was made for {base_name})" if isinstance(base_name, str) and base_name else ""
