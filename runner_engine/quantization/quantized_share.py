"""Measures which share of a model's parameters is quantized, in file headers or in loaded layers.

Libraries quantize linear layers. All other weights stay in model.dtype: a mixture's router, experts
that cannot be separated (runner_engine/experts/), convolutions, norms, embeddings, the head.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from runner_base import ConfigError, format_count
from runner_base.notes import Note, note
from runner_base.result import NOTED_BELOW
from runner_base.texts import describe_quantized_fraction

REFUSED_BELOW = 0.5  # and what is reached still less runs only with quantization.allow_partial=true
KINDS_SHOWN = 3
UNFIT_AT_MOST = (
    0.02  # of the parameters in blocks: layers that a library's kernels cannot take, and so stay plain
)


@dataclass(frozen=True)
class QuantizedShare:
    """The numbers of quantized parameters and of all parameters. Tied parameters count once.

    Parameters in decoder blocks are all except embeddings, head and last norm.
    """

    quantized: int
    total: int
    quantized_in_blocks: int
    in_blocks: int
    named: int = 0  # in blocks, which the user's patterns leave as they are: no library has missed them
    quantized_bytes: int = 0  # in memory, constants such as scales included
    all_bytes: int = 0  # of all weights in memory; 0: not known

    @property
    def of_blocks(self) -> float:
        """Quantized share of the parameters in decoder blocks."""
        return self.quantized_in_blocks / self.in_blocks if self.in_blocks else 0.0

    @property
    def of_all(self) -> float:
        """Quantized share of all parameters."""
        return self.quantized / self.total if self.total else 0.0

    @property
    def quantized_fraction_of_requested_parameters(self) -> float:
        """Quantized share of the decoder block parameters that are not excluded from quantization.
        1 if all are excluded.
        """
        wanted = self.in_blocks - self.named
        return self.quantized_in_blocks / wanted if wanted > 0 else 1.0

    @property
    def of_bytes(self) -> float | None:
        """Share of the weights' memory that quantized weights take. None if unknown."""
        return self.quantized_bytes / self.all_bytes if self.all_bytes else None

    @property
    def description(self) -> str:
        return describe_quantized_fraction(self.of_blocks, self.of_all, self.of_bytes)


def require_enough_quantized_weights(
    label: str, share: QuantizedShare, unquantized_matrices: Mapping[str, int], allow_partial: bool
) -> None:
    """Raise ConfigError if too few weights are quantized.

    unquantized_matrices: the number of weights in each unquantized matrix.
    """
    if share.quantized_fraction_of_requested_parameters >= REFUSED_BELOW or allow_partial:
        return
    if not share.quantized:
        raise ConfigError(
            f"quantization={label} would quantize nothing, because it does not support "
            f"{format_unquantized_matrices(select_block_matrices(unquantized_matrices))} in this "
            "model. Use quantization=none, or another quantization",
            code="no_effect",
        )
    raise ConfigError(
        f"quantization={label} would quantize only {share.description}. "
        f"{format_unquantized_matrices(select_block_matrices(unquantized_matrices))} would stay "
        "unquantized. Use quantization=none, or quantization.allow_partial=true to run anyway",
        code="unsupported",
    )


def build_unquantized_weight_notes(
    label: str, share: QuantizedShare, unquantized_matrices: Mapping[str, int]
) -> list[Note]:
    """Return a note if a large part of the model stays unquantized."""
    if share.quantized_fraction_of_requested_parameters >= NOTED_BELOW:
        return []
    return [
        note(
            "quantizes_only",
            label=label,
            share=share.description,
            kinds=format_unquantized_matrices(select_block_matrices(unquantized_matrices)),
        )
    ]


def select_block_matrices(unquantized_matrices: Mapping[str, int]) -> dict[str, int]:
    return {name: numbers for name, numbers in unquantized_matrices.items() if re.search(r"\.\d+\.", name)}


def format_unquantized_matrices(unquantized_matrices: Mapping[str, int], max_kinds: int = KINDS_SHOWN) -> str:
    """Format the names of unquantized matrices, largest first: `model.layers.*.mlp.experts,
    model.embed_tokens`.

    Names that differ only in numbers are one kind, and so are the matrices of experts.
    """
    kinds: Counter[str] = Counter()
    for name, numbers in unquantized_matrices.items():
        kinds[_replace_layer_numbers_with_wildcards(name)] += numbers
    shown = [kind for kind, _ in kinds.most_common(max_kinds)]
    rest = len(kinds) - max_kinds
    more = f" and {format_count(rest, 'more kind')}" if rest > 0 else ""
    return ", ".join(shown) + more


def _replace_layer_numbers_with_wildcards(name: str) -> str:
    path = name.removesuffix(".weight")
    before, experts, _ = path.partition(".experts.")
    return re.sub(r"\.\d+(?=\.|$)", ".*", before + experts.removesuffix("."))


def check_few_unquantizable(
    quantization_name: str, unquantizable: Mapping[str, tuple[str, int]], block_weights: int
) -> None:
    """Raise ConfigError if too many layers cannot be quantized.

    unquantizable: the reason and the number of weights, by layer path.
    """
    if sum(numbers for _, numbers in unquantizable.values()) > UNFIT_AT_MOST * block_weights:
        path, (reason, _) = next(iter(unquantizable.items()))
        raise ConfigError(f"{path} {reason}", key="quantization", value=quantization_name, code="unsupported")
