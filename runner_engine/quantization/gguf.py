"""The choice for .gguf files, whose quantized blocks stay in memory or are dequantized at load
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base import check_value
from runner_engine.quantization.base import (
    CheckpointSource,
    Int8ActivationsConfig,
    MatmulCosts,
    OwnLayers,
    QuantizationConfig,
    QuantizationLibrary,
    QuantizedConfig,
)


@dataclass
class GgufConfig(Int8ActivationsConfig, QuantizedConfig):
    """A .gguf file. unpacked: blocks are dequantized to model.dtype at load time."""

    name: ClassVar[str] = "gguf"
    unpacked: bool = False

    def __post_init__(self) -> None:
        need = "with quantization.unpacked=true there are no blocks: leave one of the two out"
        check_value(
            not (self.int8_rows and self.unpacked), "quantization.int8_rows", self.int8_rows, need, "conflict"
        )

    library: ClassVar[QuantizationLibrary] = QuantizationLibrary(("gguf",), "pip install 'runner-llm[gguf]'")
    source: ClassVar[CheckpointSource] = CheckpointSource.gguf
    packed: ClassVar[bool] = False
    holders: ClassVar[tuple[str, ...]] = ("runner_engine.models.gguf_blocks",)

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of a dequantized weight. Weights that stay quantized have the size of their
        blocks in the file.
        """
        return num_weights * dtype_bytes, 0

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        """Return the matmul costs. No matmul dequantizes a whole weight."""
        return MatmulCosts(may_round_rows=self.int8_rows)

    def get_block_config(self) -> QuantizationConfig | None:
        """Return the config for blocks that stay quantized. None if the key `unpacked` is set."""
        return None if self.unpacked else GgufBlocksConfig(int8_rows=self.int8_rows)

    def check_dequantized_keys(self) -> None:
        """Raise ConfigError for int8_rows, because dequantized weights are multiplied in model.dtype."""
        need = (
            "these weights do not stay in their blocks: they do on a CPU, without an adapter and model.device_map, if "
            "docs/models.md names the file's architecture"
        )
        check_value(not self.int8_rows, "quantization.int8_rows", self.int8_rows, need, "unsupported")

    def load_arguments(self) -> dict[str, Any]:
        """Return arguments that make transformers dequantize the weights, because packed weights need
        kernels from a hub.
        """
        import transformers

        kind = getattr(transformers, "GgufConfig", None)  # releases without it always unpack
        return {} if kind is None else {"quantization_config": kind(dequantize=True)}


@dataclass
class GgufBlocksConfig(GgufConfig):
    """A .gguf file whose blocks stay quantized (see ResolvedModel.quantization_mix)."""

    own_layers: ClassVar[OwnLayers | None] = OwnLayers.blocks

    packed: ClassVar[bool] = True

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        """Return the matmul costs. The engine multiplies quantized blocks on every processor."""
        return MatmulCosts(0, dtype_bytes in (2, 4), self.int8_rows)
