"""Data classes for the header of a .gguf file, which gguf_file.py reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner_engine.checkpoints.weight_files import TensorLocation


@dataclass(frozen=True)
class ArrayLocation:
    """Element type, length and byte offset of an array in a .gguf file."""

    kind: int  # of its elements
    count: int
    start: int  # byte


@dataclass(frozen=True)
class GgufHeader:
    """The header of a .gguf file. In `metadata`, the length of a long array stands in place of its
    elements.
    """

    file: Path
    metadata: dict[str, Any]
    arrays: dict[str, ArrayLocation]  # all of them, also short ones: `read_array` reads one
    tensors: tuple[TensorLocation, ...]  # with GGUF's names of dtypes: F32, Q8_0

    @property
    def architecture(self) -> str:
        """The model architecture under llama.cpp's name."""
        return self.metadata["general.architecture"]  # type: ignore[no-any-return]  # checked to be a text

    @property
    def tensor_type_counts_text(self) -> str:
        """A text with the number of tensors of each type, such as `Q8_0 ×15, F32 ×6`."""
        counts = Counter(tensor.dtype for tensor in self.tensors)
        return ", ".join(f"{name} ×{count}" for name, count in counts.most_common())
