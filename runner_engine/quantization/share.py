"""How much of a model a quantization reaches, in parameters: by the headers of its files, or as it
was loaded.

Libraries quantize linear layers. What holds weights in any other way stays in model.dtype: a
mixture's router, experts that cannot be taken apart (runner_engine/experts/), convolutions, norms,
embeddings, the head.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from runner_base import ConfigError, counted
from runner_base.notes import Note, note
from runner_base.result import NOTED_BELOW
from runner_base.texts import quantized_in_words

REFUSED_BELOW = 0.5  # and what is reached still less runs only with quantization.allow_partial=true
KINDS_SHOWN = 3
UNFIT_AT_MOST = (
    0.02  # of the parameters in blocks: layers that a library's kernels cannot take, and so stay plain
)


@dataclass(frozen=True)
class Share:
    """Numbers of parameters; tied ones count once. Parameters in blocks are all but embeddings,
    head and last norm."""

    quantized: int
    total: int
    quantized_in_blocks: int
    in_blocks: int
    named: int = 0  # in blocks, which the user's patterns leave as they are: no library has missed them
    quantized_bytes: int = 0  # in memory, constants such as scales included
    all_bytes: int = 0  # of all weights in memory; 0: not known

    @property
    def of_blocks(self) -> float:
        """The share of the parameters in blocks that is quantized."""
        return self.quantized_in_blocks / self.in_blocks if self.in_blocks else 0.0

    @property
    def of_all(self) -> float:
        """The share of all parameters that is quantized."""
        return self.quantized / self.total if self.total else 0.0

    @property
    def of_wanted(self) -> float:
        """The share of those parameters in blocks that were to be quantized; 1 if none was."""
        wanted = self.in_blocks - self.named
        return self.quantized_in_blocks / wanted if wanted > 0 else 1.0

    @property
    def of_bytes(self) -> float | None:
        """The share of the weights' bytes in memory that quantized ones take; None if it is not
        known."""
        return self.quantized_bytes / self.all_bytes if self.all_bytes else None

    @property
    def words(self) -> str:
        return quantized_in_words(self.of_blocks, self.of_all, self.of_bytes)


def check_reach(label: str, share: Share, left: Mapping[str, int], allow_partial: bool) -> None:
    """Reject a choice that most of a model's weights are no layers for; `left`: the numbers of what
    stays plain."""
    if share.of_wanted >= REFUSED_BELOW or allow_partial:
        return
    if not share.quantized:
        raise ConfigError(
            f"quantization={label} would quantize nothing: it takes none of the classes that hold "
            f"{kinds_of(in_blocks(left))} in this model: use quantization=none, or another quantization",
            code="no_effect",
        )
    raise ConfigError(
        f"quantization={label} would quantize only {share.words}, and leave {kinds_of(in_blocks(left))} as they "
        "are: use quantization=none, or quantization.allow_partial=true to run it nevertheless",
        code="unsupported",
    )


def notes(label: str, share: Share, left: Mapping[str, int]) -> list[Note]:
    """Return a note on a choice that leaves much of the model as it is."""
    if share.of_wanted >= NOTED_BELOW:
        return []
    return [note("quantizes_only", label=label, share=share.words, kinds=kinds_of(in_blocks(left)))]


def in_blocks(left: Mapping[str, int]) -> dict[str, int]:
    """Return those of some tensors or modules that are in blocks."""
    return {name: numbers for name, numbers in left.items() if re.search(r"\.\d+\.", name)}


def kinds_of(left: Mapping[str, int], most: int = KINDS_SHOWN) -> str:
    """List what stays plain, the largest first: `model.layers.*.mlp.experts, model.embed_tokens`.

    Names that differ only in numbers are one kind, and so are the matrices of experts.
    """
    kinds: Counter[str] = Counter()
    for name, numbers in left.items():
        kinds[_kind(name)] += numbers
    shown = [kind for kind, _ in kinds.most_common(most)]
    rest = len(kinds) - most
    more = f" and {counted(rest, 'more kind')}" if rest > 0 else ""
    return ", ".join(shown) + more


def _kind(name: str) -> str:
    path = name.removesuffix(".weight")
    before, experts, _ = path.partition(".experts.")
    return re.sub(r"\.\d+(?=\.|$)", ".*", before + experts.removesuffix("."))


def check_unfit(name: str, unfit: Mapping[str, tuple[str, int]], in_blocks: int) -> None:
    """Reject layers that cannot be quantized, by path: why, and their numbers; a few of them may
    stay plain."""
    if sum(numbers for _, numbers in unfit.values()) > UNFIT_AT_MOST * in_blocks:
        path, (reason, _) = next(iter(unfit.items()))
        raise ConfigError(f"{path} {reason}", key="quantization", value=name, code="unsupported")
