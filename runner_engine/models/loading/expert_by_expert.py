"""Reads the experts of a mixture one after another, and quantizes each matrix as it comes.

transformers reads the rest of the model. So no more than one matrix is in memory as it was stored:
a mixture that does not fit unquantized is loaded within what it takes in the end. What becomes of a
matrix is what the walk over the headers says (checkpoints/linear_layers.py), from which the plan
follows, too.
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
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.devices import heap
from runner_engine.experts import LeftOut, SeparateExperts, apart, leaving_out, separate_all, separated
from runner_engine.models.loading.contract import Report, WayOfLoading
from runner_engine.models.loading.mapped_tensors import MappedTensors
from runner_engine.models.loading.mixed import quantized
from runner_engine.models.loading.unfit import leave_unfit
from runner_engine.quantization.base import QuantizationConfig


def read(way: WayOfLoading, arguments: dict[str, Any], scaled: Any) -> tuple[Any, Report]:
    """Read a model as its way does, but experts one by one where they are quantized."""
    plan, files = way.plan, way.plan.files
    if not plan.takes_experts_apart:
        return way.read(arguments, scaled)
    with leaving_out(), _without_report():
        model, report = way.read(arguments, scaled)
    by_layer = _by_layer(model, [tensor for tensor in files.matrices if isinstance(tensor, ExpertMatrix)])
    missing, used = list(report["missing_keys"]), set()
    others = {tensor.name: tensor for tensor in files.tensors}
    left_out = {path: module for path, module in model.named_modules() if isinstance(module, LeftOut)}
    for path, module in left_out.items():
        experts = separated(module.family[0])
        assert experts is not None
        layer = _Layer(way, model, path, experts, others)
        with heap.large_blocks_mapped(heap.PIECES_KIB):
            missing += layer.fill(by_layer.get(path, {}), plan.choices)
        used.add(f"{path}.")
        model.set_submodule(path, experts)
    unexpected = [name for name in report["unexpected_keys"] if not name.startswith(tuple(used))]
    return model, report | {"missing_keys": missing, "unexpected_keys": unexpected}


def quantize_loaded(way: WayOfLoading, model: Any) -> None:
    """Take the experts of a loaded model apart and quantize them, where there is no header to read
    them by."""
    files, mix, device = way.resolved.files, way.resolved.mix, way.target.device
    is_as_it_is = files.tensors or files.stored is not None or files.model.device_map is not None
    if is_as_it_is or not mix.quantizes or not files.fuses_experts:
        return
    for path, experts in separate_all(model).items():
        layers = {f"{path}.{name}": one for name, one in experts.named_modules() if type(one) is nn.Linear}
        choices = {name: mix.choice_for(name) for name in layers}
        plain: set[str] = set()
        for kind in mix.choices:
            of_kind = {name: one for name, one in layers.items() if choices[name] == kind}
            plain |= leave_unfit(kind, model, of_kind, device.type)
        for name, layer in layers.items():
            if choices[name].packed and name not in plain:
                layer.weight = nn.Parameter(layer.weight.contiguous(), requires_grad=False)
                model.set_submodule(name, quantized(choices[name], model, layer.to(device), name))


@contextmanager
def _without_report() -> Iterator[None]:
    """Silence transformers' list of tensors that it has no use for: it has all experts in it."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


class _Layer:
    """The experts of one layer, while they are read."""

    def __init__(
        self, way: WayOfLoading, model: Any, path: str, experts: SeparateExperts, others: dict[str, Tensor]
    ) -> None:
        self.way, self.model, self.path, self.experts = way, model, path, experts
        self.others = others  # all of the checkpoint's tensors, for biases
        self.stored = MappedTensors()

    def fill(
        self, matrices: dict[tuple[int, str], ExpertMatrix], choices: dict[str, QuantizationConfig]
    ) -> list[str]:
        """Put each matrix, quantized if it has a choice, into its expert; return the names of those
        that lack."""
        missing = []
        for number in range(self.experts.num_experts):
            for name in self.experts.form.matrices:
                matrix = matrices.get((number, name))
                if matrix is None:
                    missing.append(f"{self.path}.{number}.{name}.weight")
                    continue
                self._put(matrix, choices.get(matrix.name))
            self.stored.release()
            machine.trim()  # what quantizing has freed lies between what it has made, and is many times as much
        return missing

    def _put(self, matrix: ExpertMatrix, choice: QuantizationConfig | None) -> None:
        expert = self.experts.expert(matrix.number)
        layer: Any = expert.get_submodule(matrix.matrix)
        dtype, device = self.way.target.dtype, self.way.target.device
        weight = self._weight(matrix, tuple(layer.weight.shape))
        layer.weight = nn.Parameter(weight.to(dtype).to(device), requires_grad=False)
        if layer.bias is not None:
            layer.bias = nn.Parameter(self._bias(matrix).to(dtype).to(device), requires_grad=False)
        if choice is not None:
            path = f"{self.path}.{matrix.number}.{matrix.matrix}"
            layer.weight = nn.Parameter(layer.weight.contiguous(), requires_grad=False)
            layer = quantized(choice, self.model, layer, path)
        expert.add_module(matrix.matrix, layer)

    def _weight(self, matrix: ExpertMatrix, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a matrix as it is stored, [outputs, inputs]; mostly a view of the file."""
        assert matrix.stored is not None
        values: torch.Tensor = self.stored.read(matrix.stored)
        if matrix.is_fused:
            values = apart(self.experts.form, matrix.matrix, values[matrix.number])
        if tuple(values.shape) != shape:
            raise DataError(
                f"tensor {matrix.stored.name}: {matrix.matrix} of an expert is {list(values.shape)}, "
                f"and {list(shape)} expected",
                key=matrix.file,
                code="mismatch",
            )
        return values

    def _bias(self, matrix: ExpertMatrix) -> torch.Tensor:
        assert matrix.stored is not None
        if not matrix.is_fused:
            return self.stored.read(self._other(f"{matrix.stored.name.removesuffix('.weight')}.bias"))
        values = self.stored.read(self._other(f"{matrix.stored.name}_bias"))
        return apart(self.experts.form, matrix.matrix, values[matrix.number])

    def _other(self, name: str) -> Tensor:
        if name not in self.others:
            raise DataError(f"the checkpoint lacks the tensor {name}", key=self.way.folder, code="damaged")
        return self.others[name]


def _by_layer(model: Any, matrices: list[ExpertMatrix]) -> dict[str, dict[tuple[int, str], ExpertMatrix]]:
    """Return the matrices of each layer's experts, by their numbers and names, by the layer's path
    in the model."""
    known = {path for path, module in model.named_modules() if isinstance(module, LeftOut)}
    paths: dict[str, str | None] = {}
    found: dict[str, dict[tuple[int, str], ExpertMatrix]] = {}
    for matrix in matrices:
        if matrix.layer not in paths:
            paths[matrix.layer] = _path_in(model, matrix, known)
        path = paths[matrix.layer]
        if path is not None:  # else the model's own code keeps its experts apart: transformers has read them
            found.setdefault(path, {})[matrix.number, matrix.matrix] = matrix
    return found


def _path_in(model: Any, matrix: ExpertMatrix, known: set[str]) -> str | None:
    """Return where a layer's experts are in the model: transformers gives some tensors other
    names."""
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
    return next((place for place in places if place in known), None)
