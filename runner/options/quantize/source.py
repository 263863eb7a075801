"""Finds the model files to quantize, and checks from their headers that a recipe supports them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import get_model_kind
from runner.options.quantize.keys import QuantizeConfig
from runner.options.quantize.recipes import IMATRIX
from runner_base import ConfigError, join_first_names
from runner_engine import ModelFiles, TensorLocation, to_local_model_config
from runner_engine.checkpoints import gguf_file, model_files
from runner_engine.checkpoints.linear_layers import find_linear_layers

PLAIN = frozenset({"F32", "F16", "BF16"})  # types of a .gguf file's tensors
SIZES = (128, 64, 32, 16)  # of groups, as a fix that is offered


@dataclass(frozen=True)
class SourceModel:
    """Files of the unquantized model that task=quantize will read."""

    path: Path  # a folder of safetensors, or a .gguf file
    name: str  # what the made model is called after
    sha256: str
    parameters: int
    nbytes: int
    dtype: str  # in which it is loaded; empty: as it is in the file


def find_source_model(config: RunnerConfig, task: QuantizeConfig) -> SourceModel:
    """Return the model files that a recipe will quantize. Raises ConfigError for files that the recipe
    does not support.
    """
    model = to_local_model_config(config.model)
    if not get_model_kind(config.model).HAS_WEIGHTS or model.random_weights:
        fix = "Use model=local model.name=FOLDER, model=auto, or a preset"
        raise ConfigError(f"task=quantize needs a trained model with weights. {fix}", code="unsupported")
    for key, choice in (("quantization", config.quantization.label), ("lora", config.lora.name)):
        if choice != "none" and not (key == "quantization" and choice == "gguf"):
            need = f"task=quantize needs the unquantized model. Use {key}=none"
            raise ConfigError(need, key=key, value=choice, code="conflict")
    files = resolve_job(config).model.files
    cache = Path(config.output_dir).expanduser() / ".hashes.json"
    if task.recipe_properties.is_file:
        return _find_gguf_source(files, task, cache)
    if files.path.is_file():
        raise ConfigError(
            (
                f"task.recipe={task.recipe.value} cannot read a .gguf file. Give a folder of "
                "safetensors, or use a llama.cpp recipe such as task.recipe=imatrix_q4_k"
            ),
            key="model.name",
            value=model.name,
            code="unsupported",
        )
    if files.stored_format is not None:
        raise ConfigError(
            f"model.name={model.name} is already quantized. Give the unquantized model", code="unsupported"
        )
    _check_group_size(files, task)
    name = "embedded" if model.name == "embedded" else Path(model.name).name
    total = sum(tensor.num_elements for tensor in files.tensors)
    sha256 = files.hash_files(cache)["model"]
    nbytes = sum(tensor.nbytes for tensor in files.tensors)
    return SourceModel(files.path, name, sha256, total, nbytes, files.dtype)


def _find_gguf_source(files: ModelFiles, task: QuantizeConfig, cache: Path) -> SourceModel:
    """Return the .gguf file that llama.cpp will quantize. Raises ConfigError for unsupported files."""
    path = files.path if task.gguf is None else Path(task.gguf).expanduser().absolute()
    key, value = ("model.name", files.model.name) if task.gguf is None else ("task.gguf", task.gguf)
    if not gguf_file.is_gguf_file(path):
        raise ConfigError(
            (
                f"task.recipe={task.recipe.value} reads a .gguf file, not a folder. Convert the "
                "model with llama.cpp's convert_hf_to_gguf.py, and give task.gguf=FILE or "
                "model.name=FILE"
            ),
            key=key,
            value=value,
            code="unsupported",
        )
    header = gguf_file.read_gguf_header(path)
    matrices = [tensor for tensor in header.tensors if len(tensor.shape) > 1]
    stored = sorted({tensor.dtype for tensor in matrices} - PLAIN)
    if stored and task.recipe_properties.file_type != "F16":
        raise ConfigError(
            (
                f"{key}={value} is already quantized ({join_first_names(stored)}). Name a file of "
                "the unquantized model. If none exists, dequantize this one with task.recipe=f16"
            ),
            code="unsupported",
        )
    if task.recipe_properties.has_imatrix and header.metadata.get(f"{header.architecture}.expert_count"):
        plain = task.recipe.value.removeprefix(IMATRIX)
        raise ConfigError(
            (
                f"{key}={value}: mixture-of-experts models cannot use an importance matrix here. "
                f"Use task.recipe={plain}, or run llama-imatrix and llama-quantize yourself"
            ),
            code="unsupported",
        )
    total = sum(tensor.num_elements for tensor in header.tensors)
    nbytes = sum(tensor.nbytes for tensor in header.tensors)
    name = re.sub(r"[-.](b?f16|f32)$", "", path.stem, flags=re.I)
    return SourceModel(path, name, model_files.hash_model_files(path, cache), total, nbytes, "")


def _check_group_size(files: ModelFiles, task: QuantizeConfig) -> None:
    """Raise ConfigError if a layer's input size is not a multiple of the group size."""
    layers, _ = find_linear_layers(files.tensors_with_split_experts, files.text_settings, files.fuses_experts)
    assert task.group_size is not None
    size = task.group_size
    uneven = {path: _input_size(tensor) for path, tensor in layers.items() if _input_size(tensor) % size}
    if not uneven:
        return
    path, inputs = next(iter(uneven.items()))
    fits = next(
        (other for other in SIZES if all(_input_size(tensor) % other == 0 for tensor in layers.values())),
        None,
    )
    fix = "No common size fits" if fits is None else f"Use task.group_size={fits}, which fits all layers"
    raise ConfigError(
        f"{path} has {inputs} input features, which is not a multiple of the group size. {fix}",
        key="task.group_size",
        value=size,
        code="mismatch",
    )


def _input_size(tensor: TensorLocation) -> int:
    return tensor.shape[-1]
