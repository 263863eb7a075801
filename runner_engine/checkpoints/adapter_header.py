"""Whether a PEFT adapter fits a checkpoint, by the headers of both files: before anything is
loaded, without torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from runner_base import ConfigError, load_json
from runner_engine.checkpoints.linear_layers import are_experts_apart
from runner_engine.checkpoints.resolve import ModelFiles, read_tensors
from runner_engine.quantization.mixed import Mix

KEY = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")
# by the path of the module: the shapes of A [r, in] and B [out, r]
Shapes = dict[str, dict[str, tuple[int, ...]]]


def adapter_shapes(folder: Path) -> Shapes:
    """Return the shapes of an adapter's matrices by the modules that they are for."""
    shapes: Shapes = {}
    for tensor in read_tensors(folder):
        if match := KEY.fullmatch(tensor.name):
            shapes.setdefault(match["path"], {})[match["side"]] = tensor.shape
    return shapes


def check(files: ModelFiles) -> None:
    """Raise ConfigError for an adapter whose matrices are for other layers than the checkpoint has.

    What headers cannot tell (packed weights, a .gguf file, a pickled adapter) is left to the check
    on the real base.
    """
    lora, folder = files.lora, files.adapter
    if lora is None or folder is None or not (folder / "adapter_model.safetensors").is_file():
        return
    settings = load_json(folder / "adapter_config.json")
    if settings.get("peft_type") != "LORA" or files.stored is not None or not files.path.is_dir():
        return
    shapes = adapter_shapes(folder)
    layers = {
        tensor.name.removesuffix(".weight"): tensor.shape
        for tensor in files.tensors
        if tensor.name.endswith(".weight")
    }
    label = f"{lora.label} does not fit model.name={files.model.name}"
    if shapes and layers and not _last_words(shapes) & _last_words(layers):
        raise ConfigError(
            f"none of its {len(shapes)} modules is there (the first are {', '.join([*shapes][:3])}): use the "
            f"base that it was made for{_made_for(settings.get('base_model_name_or_path'))}",
            key=label,
            code="not_found",
        )
    for path, sides in shapes.items():
        a, b, shape = sides.get("A"), sides.get("B"), layers.get(path)
        if a is None or b is None or shape is None or not len(a) == len(b) == len(shape) == 2:
            continue
        if a[0] != b[1] or sorted((b[0], a[1])) != sorted(shape):  # some layers are stored transposed
            raise ConfigError(
                f"size mismatch for {path}: A {list(a)} and B {list(b)} are for a layer of {[b[0], a[1]]}, "
                f"the one of {files.model.name} is {list(shape)}{_made_for(settings.get('base_model_name_or_path'))}",
                key=label,
                code="mismatch",
            )


def check_experts(files: ModelFiles, mix: Mix) -> None:
    """Raise ConfigError for an adapter of all experts of a layer at once, where each is quantized
    alone."""
    folder = files.adapter
    if (
        folder is None
        or not (folder / "adapter_model.safetensors").is_file()
        or not are_experts_apart(files, mix)
    ):
        return
    if fused := [
        path for path in adapter_shapes(folder) if path.removesuffix(".base_layer").endswith(".experts")
    ]:
        raise ConfigError(
            f"the adapter changes all experts of a layer at once ({fused[0]}), and each "
            "is quantized alone: use quantization=none, or quantization.skip=[experts]",
            key="quantization",
            value=mix.base.label,
            code="conflict",
        )


def _last_words(paths: Iterable[str]) -> set[str]:
    """Return the modules' own names, without the path: loaded models may have another one than
    their checkpoint."""
    return {path.rpartition(".")[2] for path in paths}


def _made_for(base: object) -> str:
    return f" (it was made for {base})" if isinstance(base, str) and base else ""
