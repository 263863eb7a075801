"""Loads the experts of a mixture one matrix at a time, and quantizes each matrix before reading the next.

transformers reads the rest of the model. At most one matrix is in memory in its stored format, so
a mixture that does not fit unquantized loads within its final size. Which matrices are quantized
follows from the headers (checkpoints/linear_layers.py), as in the load plan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from runner_base import DataError, machine
from runner_engine.checkpoints.experts import ExpertMatrix
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.devices import heap
from runner_engine.experts import (
    OmittedExperts,
    SeparateExperts,
    build_separate_experts,
    omit_experts_during_model_build,
    select_expert_matrix,
    separate_all_experts,
)
from runner_engine.models.loading.contract import LoadingBackend, LoadingInfo
from runner_engine.models.loading.mapped_tensors import MappedTensors
from runner_engine.models.loading.mixed import quantize_layer
from runner_engine.models.loading.unquantizable_layers import find_unquantizable_layers
from runner_engine.quantization.base import QuantizationConfig


def load_expert_by_expert(
    backend: LoadingBackend, arguments: dict[str, Any], rope_config: Any
) -> tuple[Any, LoadingInfo]:
    """Load a mixture-of-experts model, whose experts are read and quantized one matrix at a time."""
    plan, files = backend.plan, backend.plan.files
    if not plan.separates_experts:
        return backend.load_model(arguments, rope_config)
    with omit_experts_during_model_build(), _mute_transformers_load_report():
        model, report = backend.load_model(arguments, rope_config)
    by_layer = _group_matrices_by_layer(
        model, [tensor for tensor in files.tensors_with_split_experts if isinstance(tensor, ExpertMatrix)]
    )
    missing, used = list(report["missing_keys"]), set()
    others = {tensor.name: tensor for tensor in files.tensors}
    left_out = {path: module for path, module in model.named_modules() if isinstance(module, OmittedExperts)}
    for path, module in left_out.items():
        experts = build_separate_experts(module.family[0])
        assert experts is not None
        layer = _ExpertLayerLoader(backend, model, path, experts, others)
        with heap.use_mmap_for_large_blocks(heap.PIECES_KIB):
            missing += layer.load_matrices(by_layer.get(path, {}), plan.quantization_configs)
        used.add(f"{path}.")
        model.set_submodule(path, experts)
    unexpected = [name for name in report["unexpected_keys"] if not name.startswith(tuple(used))]
    return model, report | {"missing_keys": missing, "unexpected_keys": unexpected}


def quantize_loaded_experts(backend: LoadingBackend, model: Any) -> None:
    """Separate and quantize the experts of a loaded model, if its files do not allow reading
    experts one by one.
    """
    files, mix, device = backend.resolved.files, backend.resolved.quantization_mix, backend.target.device
    is_as_it_is = files.tensors or files.stored_format is not None or files.model.device_map is not None
    if is_as_it_is or not mix.quantizes or not files.fuses_experts:
        return
    for path, experts in separate_all_experts(model).items():
        layers = {f"{path}.{name}": one for name, one in experts.named_modules() if type(one) is nn.Linear}
        choices = {name: mix.select_layer_config(name) for name in layers}
        plain: set[str] = set()
        for kind in mix.quantizing_configs:
            of_kind = {name: one for name, one in layers.items() if choices[name] == kind}
            plain |= find_unquantizable_layers(kind, model, of_kind, device.type)
        for name, layer in layers.items():
            if choices[name].packed and name not in plain:
                layer.weight = nn.Parameter(layer.weight.contiguous(), requires_grad=False)
                model.set_submodule(name, quantize_layer(choices[name], model, layer.to(device), name))


@contextmanager
def _mute_transformers_load_report() -> Iterator[None]:
    """Context manager that mutes transformers' report of unused tensors, which would list all experts."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_not_load_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_load_report)


def _is_not_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


class _ExpertLayerLoader:
    """Loads all expert matrices of one layer."""

    def __init__(
        self,
        backend: LoadingBackend,
        model: Any,
        path: str,
        experts: SeparateExperts,
        checkpoint_tensors: dict[str, TensorLocation],
    ) -> None:
        self.way, self.model, self.path, self.experts = backend, model, path, experts
        self.others = checkpoint_tensors  # all of the checkpoint's tensors, for biases
        self.stored = MappedTensors()

    def load_matrices(
        self,
        matrices: dict[tuple[int, str], ExpertMatrix],
        quantization_configs: dict[str, QuantizationConfig],
    ) -> list[str]:
        """Load all matrices, and quantize those that have a quantization config. Returns the names
        of missing tensors.
        """
        missing = []
        for number in range(self.experts.num_experts):
            for name in self.experts.form.matrices:
                matrix = matrices.get((number, name))
                if matrix is None:
                    missing.append(f"{self.path}.{number}.{name}.weight")
                    continue
                self._load_matrix(matrix, quantization_configs.get(matrix.name))
            self.stored.release_pages()
            machine.release_free_memory()  # quantizing has freed many times its result
        return missing

    def _load_matrix(self, matrix: ExpertMatrix, quantization_config: QuantizationConfig | None) -> None:
        expert = self.experts.get_expert(matrix.number)
        layer: Any = expert.get_submodule(matrix.matrix)
        dtype, device = self.way.target.dtype, self.way.target.device
        weight = self._read_weight(matrix, tuple(layer.weight.shape))
        layer.weight = nn.Parameter(weight.to(dtype).to(device), requires_grad=False)
        if layer.bias is not None:
            layer.bias = nn.Parameter(self._read_bias(matrix).to(dtype).to(device), requires_grad=False)
        if quantization_config is not None:
            path = f"{self.path}.{matrix.number}.{matrix.matrix}"
            layer.weight = nn.Parameter(layer.weight.contiguous(), requires_grad=False)
            layer = quantize_layer(quantization_config, self.model, layer, path)
        expert.add_module(matrix.matrix, layer)

    def _read_weight(self, matrix: ExpertMatrix, shape: tuple[int, ...]) -> torch.Tensor:
        """Return an expert's weight [outputs, inputs] in the stored dtype, usually as a view of the
        memory-mapped file.
        """
        assert matrix.stored is not None
        values: torch.Tensor = self.stored.read_tensor(matrix.stored)
        if matrix.is_fused:
            values = select_expert_matrix(self.experts.form, matrix.matrix, values[matrix.number])
        if tuple(values.shape) != shape:
            raise DataError(
                f"tensor {matrix.stored.name}: an expert's {matrix.matrix} has the shape "
                f"{list(values.shape)}, but {list(shape)} is expected",
                key=matrix.file,
                code="mismatch",
            )
        return values

    def _read_bias(self, matrix: ExpertMatrix) -> torch.Tensor:
        assert matrix.stored is not None
        if not matrix.is_fused:
            return self.stored.read_tensor(
                self._require_tensor(f"{matrix.stored.name.removesuffix('.weight')}.bias")
            )
        values = self.stored.read_tensor(self._require_tensor(f"{matrix.stored.name}_bias"))
        return select_expert_matrix(self.experts.form, matrix.matrix, values[matrix.number])

    def _require_tensor(self, name: str) -> TensorLocation:
        if name not in self.others:
            raise DataError(f"the checkpoint lacks the tensor {name}", key=self.way.folder, code="damaged")
        return self.others[name]


def _group_matrices_by_layer(
    model: Any, matrices: list[ExpertMatrix]
) -> dict[str, dict[tuple[int, str], ExpertMatrix]]:
    """Group the expert matrices by the module path of their layer, then by expert number and matrix name."""
    known = {path for path, module in model.named_modules() if isinstance(module, OmittedExperts)}
    paths: dict[str, str | None] = {}
    found: dict[str, dict[tuple[int, str], ExpertMatrix]] = {}
    for matrix in matrices:
        if matrix.layer not in paths:
            paths[matrix.layer] = _find_experts_module_path(model, matrix, known)
        path = paths[matrix.layer]
        if path is not None:  # else the model's own code keeps its experts apart: transformers has read them
            found.setdefault(path, {})[matrix.number, matrix.matrix] = matrix
    return found


def _find_experts_module_path(model: Any, matrix: ExpertMatrix, expert_paths: set[str]) -> str | None:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    assert matrix.stored is not None
    conversions = get_model_conversion_mapping(model)
    renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    renamed, _ = rename_source_key(matrix.stored.name, renamings, converters)
    prefix = f"{model.base_model_prefix}."
    places = [renamed.rpartition(".")[0], matrix.layer]
    places += [prefix + place for place in places] + [place.removeprefix(prefix) for place in places]
    return next((place for place in places if place in expert_paths), None)
