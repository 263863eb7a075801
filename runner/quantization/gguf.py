"""gguf: a .gguf file, whose blocks are unpacked while loading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner.quantization.base import CheckpointSource, Quantized


@dataclass
class GgufConfig(Quantized):
    """A .gguf file: its blocks are unpacked while loading, into model.dtype."""

    name: ClassVar[str] = "gguf"

    packages: ClassVar[tuple[str, ...]] = ("gguf",)
    install: ClassVar[str] = "pip install 'runner[gguf]'"
    source: ClassVar[CheckpointSource] = CheckpointSource.gguf
    packed: ClassVar[bool] = False

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the size of an ordinary weight, since it is unpacked."""
        return numbers * dtype_bytes, 0

    def unpacked_bytes(self, dtype_bytes: int) -> int:
        """Return 0: the weights are already unpacked."""
        return 0

    def load_arguments(self) -> dict[str, Any]:
        """Ask for unpacked weights; packed ones need kernels from a hub."""
        import transformers

        kind = getattr(transformers, "GgufConfig", None)  # releases without it always unpack
        return {} if kind is None else {"quantization_config": kind(dequantize=True)}
