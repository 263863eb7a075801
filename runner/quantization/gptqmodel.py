"""gptqmodel: checkpoints that GPTQ or AWQ has quantized; `none` also loads them as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner.quantization.base import CheckpointSource, Format, Quantized


@dataclass
class GptqModelConfig(Quantized):
    """What GPTQ and AWQ have in common."""

    source: ClassVar[CheckpointSource] = CheckpointSource.quantized
    holders: ClassVar[tuple[str, ...]] = ("gptqmodel.",)
    packed_names: ClassVar[tuple[str, ...]] = (".qweight",)

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes in model.dtype, for a weight that is not packed; packed ones are as large as on disk."""
        return numbers * dtype_bytes, 0

    def unpacked_bytes(self, dtype_bytes: int) -> int:
        """The copy is in the dtype of the activations."""
        return dtype_bytes

    def load_arguments(self) -> dict[str, Any]:
        """Return nothing: the checkpoint contains the settings."""
        return {}

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:
        """Read the bits."""
        is_own = stored.get("quant_method") == cls.method
        return Format(cls.method, cls(), int(stored.get("bits") or 4), cls.name) if is_own else None


@dataclass
class GptqConfig(GptqModelConfig):
    """A checkpoint that GPTQ has quantized already."""

    name: ClassVar[str] = "gptq"

    packages: ClassVar[tuple[str, ...]] = ("gptqmodel", "optimum")
    # gptqmodel compiles its kernels at installation, which may fail, so it is not in an extra of ours
    install: ClassVar[str] = "pip install gptqmodel optimum"
    method: ClassVar[str] = "gptq"


@dataclass
class AwqConfig(GptqModelConfig):
    """A checkpoint that AWQ has quantized already."""

    name: ClassVar[str] = "awq"

    packages: ClassVar[tuple[str, ...]] = ("gptqmodel",)
    install: ClassVar[str] = "pip install gptqmodel"
    method: ClassVar[str] = "awq"
