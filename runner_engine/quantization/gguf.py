"""The quantization choice for .gguf files, whose blocks stay quantized or are dequantized at load time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base import check_value, config_field
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
    """Config of a .gguf file.

    dequantize: blocks are dequantized to model.dtype at load time.
    """

    name: ClassVar[str] = "gguf"
    dequantize: bool = config_field(False, renamed_from="unpacked")

    def __post_init__(self) -> None:
        need = "conflicts with quantization.dequantize=true, which dequantizes all blocks. Omit one of them"
        check_value(
            not (self.int8_activations and self.dequantize),
            "quantization.int8_activations",
            self.int8_activations,
            need,
            "conflict",
        )

    library: ClassVar[QuantizationLibrary] = QuantizationLibrary(("gguf",), "pip install 'runner-llm[gguf]'")
    source: ClassVar[CheckpointSource] = CheckpointSource.gguf
    packed: ClassVar[bool] = False
    holders: ClassVar[tuple[str, ...]] = ("runner_engine.models.gguf_blocks",)

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of a dequantized weight, which has no quantization constants."""
        return num_weights * dtype_bytes, 0

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        return MatmulCosts(may_round_rows=self.int8_activations)

    def get_block_config(self) -> QuantizationConfig | None:
        """Return the config for blocks that stay quantized, or None if the key `dequantize` is set."""
        return None if self.dequantize else GgufBlocksConfig(int8_activations=self.int8_activations)

    def reject_int8_activations_if_dequantized(self) -> None:
        """Raise ConfigError if int8_activations is set, which dequantized weights do not support."""
        need = (
            "these weights are dequantized. Blocks stay quantized only on a CPU, without an adapter and "
            "model.device_map, and for the architectures in docs/models.md"
        )
        check_value(
            not self.int8_activations,
            "quantization.int8_activations",
            self.int8_activations,
            need,
            "unsupported",
        )

    def build_load_arguments(self) -> dict[str, Any]:
        """Return arguments that make transformers dequantize the weights.

        Packed weights would need kernels from the hub.
        """
        import transformers

        kind = getattr(transformers, "GgufConfig", None)  # releases without it always unpack
        return {} if kind is None else {"quantization_config": kind(dequantize=True)}


@dataclass
class GgufBlocksConfig(GgufConfig):
    """A .gguf file whose blocks stay quantized in memory."""

    own_layers: ClassVar[OwnLayers | None] = OwnLayers.blocks

    packed: ClassVar[bool] = True

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        return MatmulCosts(0, dtype_bytes in (2, 4), self.int8_activations)
