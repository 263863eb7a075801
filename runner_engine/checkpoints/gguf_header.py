"""What the header of a .gguf file says; gguf_file.py reads it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner_engine.checkpoints.weight_files import Tensor


@dataclass(frozen=True)
class Array:
    """Where the elements of an array are in the file."""

    kind: int  # of its elements
    count: int
    start: int  # byte


@dataclass(frozen=True)
class Header:
    """The header of a .gguf file; `metadata` contains a long array's length instead of the
    array."""

    file: Path
    metadata: dict[str, Any]
    arrays: dict[str, Array]  # all of them, also short ones: `read_array` reads one
    tensors: tuple[Tensor, ...]  # with GGUF's names of dtypes: F32, Q8_0

    @property
    def architecture(self) -> str:
        """The model's architecture, as llama.cpp names it."""
        return self.metadata["general.architecture"]  # type: ignore[no-any-return]  # checked to be a text

    @property
    def types(self) -> str:
        """How the tensors are stored, e.g. `Q8_0 ×15, F32 ×6`."""
        counts = Counter(tensor.dtype for tensor in self.tensors)
        return ", ".join(f"{name} ×{count}" for name, count in counts.most_common())
