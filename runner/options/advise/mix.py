"""`runner-advise --mix LIMIT`: which layer gets which format, so that the model fits and loses
least.

The steps: the loss of each layer alone in each format (layer_losses.py) → the choice with the least
sum within the limit (knapsack.py) → jobs of this mix and of others, compared on texts that the
choice has not seen (mix_check.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from runner.config.resolved import ResolvedJob, resolve
from runner.options.advise.candidates import Compose
from runner.options.advise.knapsack import Choice, Option
from runner.run import identify
from runner.tasks.base import Context, task_of
from runner_base import MIB, ConfigError, Progress, kept
from runner_engine import QuantizationConfig, Request
from runner_engine.checkpoints import block_of, first_number, weight_bytes
from runner_engine.checkpoints.linear_layers import linear_layers, walk
from runner_engine.quantization.mixed import Mix

FORMATS = "nf4,int8,none"
TEXTS = 20  # are read for each layer and format, and left out of the check
LIMITS = ("weight_mib", "model_mib")
LIMIT = re.compile(rf"({'|'.join(LIMITS)})<(\d+(?:\.\d+)?)")
MEASURES = 1  # raised when losses are measured in another way: those that are kept are of no use then


@dataclass(frozen=True)
class Limit:
    """What the model may take: `weight_mib` of its weights alone, `model_mib` with KV cache and
    activations."""

    metric: str
    mib: float

    @classmethod
    def read(cls, text: str) -> Limit:
        """Read a limit; ConfigError if it is none."""
        found = LIMIT.fullmatch(text.replace(" ", ""))
        if found is None or float(found[2]) <= 0:
            raise ConfigError(
                f"give a limit, such as {' or '.join(f'{it}<60' for it in LIMITS)}",
                key="--mix",
                value=text,
                code="bad_value",
            )
        return cls(found[1], float(found[2]))

    def __str__(self) -> str:
        return f"{self.metric}<{self.mib:g}"


@dataclass(frozen=True)
class MixableModel:
    """The linear layers of an unquantized model, and what each may become."""

    overrides: list[str]  # the overrides of a job with it, without its quantization
    formats: dict[str, QuantizationConfig]
    # a layer, the experts of one, or a whole block, and the paths of its linear layers
    layers: dict[str, list[str]]
    nbytes: list[list[int]]  # of each in each format
    other_bytes: int  # of all that stays as it is: embeddings, head, norms
    widths: frozenset[int]  # inputs of its layers

    @classmethod
    def of(cls, overrides: list[str], names: Sequence[str], by_block: bool, compose: Compose) -> MixableModel:
        """Read the sizes of a model's layers, or blocks, from its files; ConfigError if it cannot
        have a mix."""
        config = compose([*overrides, "quantization=none"])
        if not config.model.has_weights:
            raise ConfigError(
                "it has no weights here, so there is nothing to quantize",
                key="model",
                value=config.model.name,
                code="unsupported",
            )
        formats = {name: compose([*overrides, f"quantization={name}"]).quantization for name in names}
        resolved = resolve(config)
        files = resolved.model.files
        if files.stored is not None or files.path.is_file():
            raise ConfigError(
                "--mix quantizes an unquantized folder, and this is none",
                key="model.name",
                value=config.model.name,
                code="unsupported",
            )
        for name in formats:
            # refuses what quantizes whole models only
            Mix.of(replace(config.quantization, overrides={"*": name}))
        layers, _ = linear_layers(files.matrices, files.text_settings, files.fuses_experts)
        dtype_bytes = files.dtype_bytes
        together: dict[str, list[str]] = {}
        for path in layers:
            together.setdefault(block_of(path) if by_block else _alone(path), []).append(path)

        def bytes_in(number_format: QuantizationConfig, paths: list[str]) -> int:
            prices = (
                number_format.price(layers[path].shape[0], layers[path].params, dtype_bytes) for path in paths
            )
            return sum(map(sum, prices))

        nbytes = [
            [bytes_in(number_format, paths) for number_format in formats.values()]
            for paths in together.values()
        ]
        plain = sum(tensor.params * dtype_bytes for tensor in layers.values())
        choices = walk(files.matrices, files.text_settings, config.mix).choices
        whole = sum(weight_bytes(files.matrices, files.text_settings, None, choices, dtype_bytes).values())
        widths = frozenset(tensor.shape[-1] for tensor in layers.values())
        return cls(overrides, formats, together, nbytes, whole - plain, widths)

    @property
    def names(self) -> list[str]:
        return list(self.formats)

    def options(self, losses: dict[str, dict[str, float]], scales: dict[str, float]) -> list[list[Option]]:
        """Return what each layer may become, with the losses that were measured, times the scale of
        each format."""
        return [
            [
                Option(size, scales[name] * losses[layer].get(name, 0.0))
                for size, name in zip(sizes, self.names, strict=True)
            ]
            for layer, sizes in zip(self.layers, self.nbytes, strict=True)
        ]

    def weight_mib(self, choice: Choice) -> float:
        """Return the predicted size of the weights."""
        sizes = (sizes[number] for sizes, number in zip(self.nbytes, choice, strict=True))
        return (self.other_bytes + sum(sizes)) / MIB

    def uniform(self, name: str) -> Choice:
        """Return the choice of one format for all layers."""
        return (self.names.index(name),) * len(self.layers)

    def counts(self, choice: Choice) -> str:
        """Say how many layers get which format."""
        counts = Counter(self.names[number] for number in choice)
        return ", ".join(f"{name} {counts[name]}" for name in self.names if counts[name])

    def formats_of(self, choice: Choice) -> dict[str, str]:
        """Return the format that each linear layer gets, by its path."""
        pairs = zip(self.layers.values(), (self.names[number] for number in choice), strict=True)
        return {path: name for paths, name in pairs for path in paths}

    def quantization(self, choice: Choice) -> list[str]:
        """Return the overrides that give each layer its format: the most frequent one, and patterns
        for the others."""
        of_layer = self.formats_of(choice)
        (base, _), = Counter(of_layer.values()).most_common(1)  # fmt: skip
        patterns = patterns_of(of_layer, base)
        short = {_from_first_block(path): name for path, name in patterns.items()}
        for candidate in (short, patterns):
            mix = Mix.of(replace(self.formats[base], overrides=candidate))
            if all(mix.choice_for(path).name == name for path, name in of_layer.items()):
                patterns = candidate
                break
        inner = ", ".join(f"{path}: {name}" for path, name in patterns.items())
        return [f"quantization={base}", f"quantization.overrides={{{inner}}}"]


def _alone(path: str) -> str:
    """Return what gets a format of its own: a linear layer, or all experts together, each of which
    few tokens see."""
    before, experts, _ = path.partition(".experts.")
    return before + experts.removesuffix(".")


def patterns_of(of_layer: dict[str, str], base: str) -> dict[str, str]:
    """Return the formats of modules all of whose layers share one, and of single layers, where it
    is not the base."""
    found: dict[str, str] = {}
    for path, name in of_layer.items():
        parts = path.split(".")
        for depth in range(first_number(path) + 1, len(parts) + 1):
            module = ".".join(parts[:depth])
            inside = {kind for other, kind in of_layer.items() if f"{other}.".startswith(f"{module}.")}
            if inside == {name}:
                if name != base:
                    found[module] = name
                break
    return found


def _from_first_block(path: str) -> str:
    """Return a path from the list of the model's blocks on: layers.0.mlp instead of
    model.layers.0.mlp."""
    return ".".join(path.split(".")[max(first_number(path) - 1, 0) :])


def losses_of(model: MixableModel, compose: Compose) -> dict[str, dict[str, float]]:
    """Return the loss of each layer alone in each format, in nats a token: kept from earlier, or
    measured now."""
    config = compose([*model.overrides, "quantization=none", f"task.limit={TEXTS}"])
    resolved = resolve(config)
    inputs, job = identify(resolved)
    quantizing = {
        name: number_format for name, number_format in model.formats.items() if number_format.packed
    }
    formats = [f"{name} {number_format.keys}" for name, number_format in quantizing.items()]
    what = [MEASURES, job.job_id, sorted(formats), [*model.layers], version("torch"), version("transformers")]
    file = kept.file_of("losses", what)
    known: dict[str, dict[str, float]] = {} if file is None else kept.read(file).get("losses", {})
    if not known:
        from runner.options.advise.layer_losses import measure  # imports torch

        with Progress(len(model.layers), "losses of single layers") as bar:
            known = measure(resolved, requests_of(resolved, inputs), model.layers, quantizing, bar.advance)
        if file is not None:
            kept.keep(file, {"losses": known})
    return known


def requests_of(resolved: ResolvedJob, inputs: Any) -> list[Request]:
    """Return the texts of a likelihood job, each with what is scored of it; of choices, the right
    ones."""
    task: Any = task_of(resolved.config)
    none: Any = None  # nothing is recorded, and no engine is asked
    pieces = task.cut(inputs, Context(none, resolved, none))
    return [piece.request for piece in pieces if not piece.is_other]
