"""Implements `runner-advise --mix LIMIT`: chooses a quantization format per layer so that the
model fits with the least loss.

The steps: loss of each layer alone in each format (layer_losses.py) → the choice with the
smallest sum within the limit (knapsack.py) → jobs of this mix and of others, compared on
texts that the choice has not seen (mix_check.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from runner.config.resolved import ResolvedJob, resolve_job
from runner.options.advise.candidates import Compose
from runner.options.advise.knapsack import FormatChoice, LayerOption
from runner.run import read_inputs_and_identify_job
from runner.tasks.base import TaskContext, import_task_module
from runner_base import MIB, ConfigError, Progress, user_cache
from runner_engine import QuantizationConfig, Request
from runner_engine.checkpoints import compute_weight_nbytes, find_block_number_position, get_block_path
from runner_engine.checkpoints.linear_layers import find_linear_layers, plan_quantization
from runner_engine.quantization.quantization_mix import QuantizationMix

FORMATS = "nf4,int8,none"
TEXTS = 20  # are read for each layer and format, and left out of the check
LIMITS = ("weight_mib", "model_mib")
LIMIT = re.compile(rf"({'|'.join(LIMITS)})<(\d+(?:\.\d+)?)")
MEASURES = 1  # raised when losses are measured in another way: those that are kept are of no use then


@dataclass(frozen=True)
class SizeLimit:
    """Size limit of a model. `weight_mib` counts only weights, `model_mib` also KV cache and
    activations.
    """

    metric: str
    mib: float

    @classmethod
    def parse(cls, text: str) -> SizeLimit:
        """Parse a size limit such as `weight_mib<60`. Raises ConfigError if the text is invalid."""
        found = LIMIT.fullmatch(text.replace(" ", ""))
        if found is None or float(found[2]) <= 0:
            raise ConfigError(
                (
                    "the size limit is missing or invalid. Use a limit such as "
                    f"{' or '.join((f'{it}<60' for it in LIMITS))}"
                ),
                key="--mix",
                value=text,
                code="bad_value",
            )
        return cls(found[1], float(found[2]))

    def __str__(self) -> str:
        return f"{self.metric}<{self.mib:g}"


@dataclass(frozen=True)
class MixableModel:
    """The linear layers of an unquantized model, and the quantization formats that each layer may get."""

    overrides: list[str]  # the overrides of a job with it, without its quantization
    formats: dict[str, QuantizationConfig]
    # a layer, the experts of one, or a whole block, and the paths of its linear layers
    layers: dict[str, list[str]]
    nbytes: list[list[int]]  # of each in each format
    other_bytes: int  # of all that stays as it is: embeddings, head, norms
    widths: frozenset[int]  # inputs of its layers

    @classmethod
    def from_config(
        cls, overrides: list[str], format_names: Sequence[str], is_by_block: bool, compose: Compose
    ) -> MixableModel:
        """Read the sizes of a model's layers or blocks from its files. Raises ConfigError for a model that
        does not support mixed formats.
        """
        config = compose([*overrides, "quantization=none"])
        if not config.model.has_weights:
            raise ConfigError(
                "this model has no weights on this machine, so it cannot be quantized",
                key="model",
                value=config.model.name,
                code="unsupported",
            )
        formats = {name: compose([*overrides, f"quantization={name}"]).quantization for name in format_names}
        resolved = resolve_job(config)
        files = resolved.model.files
        if files.stored_format is not None or files.path.is_file():
            raise ConfigError(
                "--mix needs an unquantized folder, and this model has none",
                key="model.name",
                value=config.model.name,
                code="unsupported",
            )
        for name in formats:
            # refuses what quantizes whole models only
            QuantizationMix.from_config(replace(config.quantization, overrides={"*": name}))
        layers, _ = find_linear_layers(
            files.tensors_with_split_experts, files.text_settings, files.fuses_experts
        )
        dtype_bytes = files.dtype_bytes
        together: dict[str, list[str]] = {}
        for path in layers:
            together.setdefault(
                get_block_path(path) if is_by_block else _get_shared_format_path(path), []
            ).append(path)

        def count_bytes(number_format: QuantizationConfig, paths: list[str]) -> int:
            prices = (
                number_format.compute_weight_nbytes(
                    layers[path].shape[0], layers[path].num_elements, dtype_bytes
                )
                for path in paths
            )
            return sum(map(sum, prices))

        nbytes = [
            [count_bytes(number_format, paths) for number_format in formats.values()]
            for paths in together.values()
        ]
        plain = sum(tensor.num_elements * dtype_bytes for tensor in layers.values())
        choices = plan_quantization(files.tensors_with_split_experts, files.text_settings, config.mix).choices
        whole = sum(
            compute_weight_nbytes(
                files.tensors_with_split_experts, files.text_settings, None, choices, dtype_bytes
            ).values()
        )
        widths = frozenset(tensor.shape[-1] for tensor in layers.values())
        return cls(overrides, formats, together, nbytes, whole - plain, widths)

    @property
    def names(self) -> list[str]:
        return list(self.formats)

    def layer_options(
        self, losses: dict[str, dict[str, float]], loss_scales: dict[str, float]
    ) -> list[list[LayerOption]]:
        """Return the formats of each layer with sizes and losses, as input for the knapsack solver.

        `loss_scales` has a factor for the losses of each format.
        """
        return [
            [
                LayerOption(size, loss_scales[name] * losses[layer].get(name, 0.0))
                for size, name in zip(sizes, self.names, strict=True)
            ]
            for layer, sizes in zip(self.layers, self.nbytes, strict=True)
        ]

    def weight_mib(self, choice: FormatChoice) -> float:
        sizes = (sizes[number] for sizes, number in zip(self.nbytes, choice, strict=True))
        return (self.other_bytes + sum(sizes)) / MIB

    def uniform_choice(self, format_name: str) -> FormatChoice:
        return (self.names.index(format_name),) * len(self.layers)

    def describe_layers_per_format(self, choice: FormatChoice) -> str:
        counts = Counter(self.names[number] for number in choice)
        return ", ".join(f"{name} {counts[name]}" for name in self.names if counts[name])

    def map_paths_to_formats(self, choice: FormatChoice) -> dict[str, str]:
        pairs = zip(self.layers.values(), (self.names[number] for number in choice), strict=True)
        return {path: name for paths, name in pairs for path in paths}

    def build_quantization_overrides(self, choice: FormatChoice) -> list[str]:
        """Return the overrides that set each layer's format. The most frequent format becomes the default."""
        of_layer = self.map_paths_to_formats(choice)
        (base, _), = Counter(of_layer.values()).most_common(1)  # fmt: skip
        patterns = merge_layer_formats_by_module(of_layer, base)
        short = {_strip_path_before_blocks(path): name for path, name in patterns.items()}
        for candidate in (short, patterns):
            mix = QuantizationMix.from_config(replace(self.formats[base], overrides=candidate))
            if all(mix.select_layer_config(path).name == name for path, name in of_layer.items()):
                patterns = candidate
                break
        inner = ", ".join(f"{path}: {name}" for path, name in patterns.items())
        return [f"quantization={base}", f"quantization.overrides={{{inner}}}"]


def _get_shared_format_path(module_path: str) -> str:
    before, experts, _ = module_path.partition(".experts.")
    return before + experts.removesuffix(".")


def merge_layer_formats_by_module(format_by_path: dict[str, str], default_format: str) -> dict[str, str]:
    """Map module names to formats. One entry covers a whole transformer block if all its layers share a
    format.

    Layers in the base format are omitted.
    """
    found: dict[str, str] = {}
    for path, name in format_by_path.items():
        parts = path.split(".")
        for depth in range(find_block_number_position(path) + 1, len(parts) + 1):
            module = ".".join(parts[:depth])
            inside = {kind for other, kind in format_by_path.items() if f"{other}.".startswith(f"{module}.")}
            if inside == {name}:
                if name != default_format:
                    found[module] = name
                break
    return found


def _strip_path_before_blocks(path: str) -> str:
    """Strip the prefix of a module path: `model.layers.0.mlp` becomes `layers.0.mlp`."""
    return ".".join(path.split(".")[max(find_block_number_position(path) - 1, 0) :])


def load_or_measure_quantization_losses(model: MixableModel, compose: Compose) -> dict[str, dict[str, float]]:
    """Return the loss of each layer in each format, in nats per token. Losses are cached or
    measured.
    """
    config = compose([*model.overrides, "quantization=none", f"task.limit={TEXTS}"])
    resolved = resolve_job(config)
    inputs, job = read_inputs_and_identify_job(resolved)
    quantizing = {
        name: number_format for name, number_format in model.formats.items() if number_format.packed
    }
    formats = [f"{name} {number_format.keys}" for name, number_format in quantizing.items()]
    what = [MEASURES, job.job_id, sorted(formats), [*model.layers], version("torch"), version("transformers")]
    file = user_cache.get_cache_file("losses", what)
    known: dict[str, dict[str, float]] = (
        {} if file is None else user_cache.read_cache_file(file).get("losses", {})
    )
    if not known:
        from runner.options.advise.layer_losses import measure_quantization_loss_per_layer  # imports torch

        with Progress(len(model.layers), "losses of single layers", "layers") as bar:
            known = measure_quantization_loss_per_layer(
                resolved, make_scoring_requests(resolved, inputs), model.layers, quantizing, bar.advance
            )
        if file is not None:
            user_cache.write_cache_file(file, {"losses": known})
    return known


def make_scoring_requests(resolved: ResolvedJob, task_inputs: Any) -> list[Request]:
    """Return the scoring requests of a likelihood job. For multiple choice, only the correct choice is
    scored.
    """
    task: Any = import_task_module(resolved.config)
    none: Any = None  # nothing is recorded, and no engine is asked
    pieces = task.build_scored_continuations(task_inputs, TaskContext(none, resolved, none))
    return [piece.request for piece in pieces if not piece.is_other]
