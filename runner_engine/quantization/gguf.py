"""gguf: a .gguf file, whose blocks stay as they are, or are unpacked while loading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base import check
from runner_engine.quantization.base import (
    CheckpointSource,
    Library,
    OwnLayers,
    Products,
    QuantizationConfig,
    Quantized,
    WithByteRows,
)


@dataclass
class GgufConfig(WithByteRows, Quantized):
    """A .gguf file. unpacked: its blocks are unpacked while loading, into model.dtype."""

    name: ClassVar[str] = "gguf"
    unpacked: bool = False

    def __post_init__(self) -> None:
        need = "with quantization.unpacked=true there are no blocks: leave one of the two out"
        check(
            not (self.int8_rows and self.unpacked), "quantization.int8_rows", self.int8_rows, need, "conflict"
        )

    library: ClassVar[Library] = Library(("gguf",), "pip install 'runner-llm[gguf]'")
    source: ClassVar[CheckpointSource] = CheckpointSource.gguf
    packed: ClassVar[bool] = False
    holders: ClassVar[tuple[str, ...]] = ("runner_engine.models.gguf_blocks",)

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the size of an ordinary weight: those in blocks have their own size in the
        file."""
        return numbers * dtype_bytes, 0

    def products(self, dtype_bytes: int) -> Products:
        """Return no copy: a product unpacks no whole weight."""
        return Products(may_round_rows=self.int8_rows)

    def in_blocks(self) -> QuantizationConfig | None:
        """Return the choice with blocks that stay, unless they are to be unpacked."""
        return None if self.unpacked else GgufBlocksConfig(int8_rows=self.int8_rows)

    def check_unpacked(self) -> None:
        """Reject rows in 8 bits: unpacked weights are multiplied in model.dtype."""
        need = (
            "these weights do not stay in their blocks: they do on a CPU, without an adapter and model.device_map, if "
            "docs/models.md names the file's architecture"
        )
        check(not self.int8_rows, "quantization.int8_rows", self.int8_rows, need, "unsupported")

    def load_arguments(self) -> dict[str, Any]:
        """Ask for unpacked weights; packed ones need kernels from a hub."""
        import transformers

        kind = getattr(transformers, "GgufConfig", None)  # releases without it always unpack
        return {} if kind is None else {"quantization_config": kind(dequantize=True)}


@dataclass
class GgufBlocksConfig(GgufConfig):
    """A .gguf file whose blocks stay as they are (ResolvedModel.mix)."""

    own_layers: ClassVar[OwnLayers | None] = OwnLayers.blocks

    packed: ClassVar[bool] = True

    def products(self, dtype_bytes: int) -> Products:
        """The engine multiplies blocks on every processor."""
        return Products(0, dtype_bytes in (2, 4), self.int8_rows)
