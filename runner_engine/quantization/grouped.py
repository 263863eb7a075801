"""Checkpoints with group-quantized integer weights: GPTQ, AWQ and AutoRound.

The runner reads them itself (runner_engine/models/grouped_linear.py). `none` also loads them as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.quantization.base import (
    CheckpointSource,
    Int8ActivationsConfig,
    MatmulCosts,
    OwnLayers,
    QuantizedConfig,
    StoredFormat,
    StoredTensorNames,
)

BITS = range(2, 9)
GPTQ_FORMATS = ("gptq", "gptq_v2")
ROUND_FORMATS = {  # AutoRound's names of packings: the layout, and whether zero points are stored minus one
    **dict.fromkeys(("auto_round", "auto_round:gptqmodel"), ("gptq", False)),
    **dict.fromkeys(("auto", "auto_round:gptq", "auto_round:auto_gptq"), ("gptq", True)),
    **dict.fromkeys(("auto_round:awq", "auto_round:auto_awq"), ("awq", False)),
}


@dataclass(frozen=True)
class GroupSettings:
    """Quantization settings of all layers, from config.json. A single layer's tensors may have
    other bits and group sizes.
    """

    layout: str  # its name in runner_engine/models/loading/stored_groups.py
    bits: tuple[int, ...]
    group: int  # inputs that share a scale; -1: all
    is_minus_one: bool = False  # zero points are stored minus one
    rows: str = ""  # how rows are rounded (`prepared` of the layout)
    row_group: int = -1  # numbers of a row that share a scale; -1: all
    outputs: int = 1  # that share a scale; -1: all
    unused: tuple[str, ...] = ()  # ends of the names of tensors that no layer takes


@dataclass
class GroupedConfig(QuantizedConfig):
    """Base class of checkpoint formats with group-quantized weights."""

    source: ClassVar[CheckpointSource] = CheckpointSource.quantized
    holders: ClassVar[tuple[str, ...]] = ("runner_engine.models.grouped_linear",)
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".qweight",))
    own_layers: ClassVar[OwnLayers | None] = OwnLayers.groups

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of an unquantized weight.

        Quantized weights have the same size in memory and on disk.
        """
        return num_weights * dtype_bytes, 0

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        """Return the matmul costs. A matmul dequantizes the weights to the dtype of the activations.

        The engine multiplies group-quantized weights on every processor.
        """
        return MatmulCosts(dtype_bytes, dtype_bytes in (2, 4))

    def build_load_arguments(self) -> dict[str, Any]:
        """Return an empty dictionary, because the checkpoint contains the quantization settings."""
        return {}

    @classmethod
    def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:
        """Parse the quantization format of a checkpoint. For an unsupported variant, the result
        contains the reason.
        """
        if not cls.matches_config(stored_config):
            return None
        refusal = cls.find_unsupported_variant(stored_config)
        bits = 8 if refusal else cls.parse_group_settings(stored_config).bits[0]
        return StoredFormat(str(stored_config["quant_method"]), cls(), bits, cls.name, refusal=refusal)

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Parse the layer settings of a quantization_config. Raises ConfigError for invalid numbers."""
        bits = parse_bits_per_weight(stored_config.get("bits", stored_config.get("w_bit", 4)), "bits")
        group = parse_group_size(stored_config.get("group_size", stored_config.get("q_group_size", 128)))
        layout, is_minus_one = cls.parse_packing(stored_config)
        if layout == "awq" and bits != 4:
            raise ConfigError(
                f"quantization_config.bits={bits}: AWQ's layout supports only 4",
                key="config.json",
                code="unsupported",
            )
        return GroupSettings(layout, (bits,), group, is_minus_one)

    @classmethod
    def parse_packing(cls, stored_config: dict[str, Any]) -> tuple[str, bool]:  # noqa: ARG003
        """Return the name of the tensor layout, and whether each zero point is stored minus one."""
        return cls.method, False

    @classmethod
    def matches_config(cls, stored_config: dict[str, Any]) -> bool:
        """Whether a quantization_config describes this format."""
        return stored_config.get("quant_method") == cls.method

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        """Return the reason why this variant of the format is unsupported, or None if it is supported."""
        return (
            _build_unsupported_setting_note(stored_config, "data_type", ("int",))
            if stored_config.get("data_type") is not None
            else None
        )


@dataclass
class GptqConfig(Int8ActivationsConfig, GroupedConfig):
    """A checkpoint quantized by GPTQ."""

    name: ClassVar[str] = "gptq"
    method: ClassVar[str] = "gptq"

    @classmethod
    def parse_packing(cls, stored_config: dict[str, Any]) -> tuple[str, bool]:
        """Return the name of the tensor layout, and whether zero points are stored minus one, as in
        all but gptq_v2.
        """
        return cls.method, (
            stored_config.get("checkpoint_format") or stored_config.get("format")
        ) != "gptq_v2"

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        key = "checkpoint_format" if stored_config.get("checkpoint_format") is not None else "format"
        return (
            None
            if stored_config.get(key) is None
            else _build_unsupported_setting_note(stored_config, key, GPTQ_FORMATS)
        )


@dataclass
class AwqConfig(Int8ActivationsConfig, GroupedConfig):
    """A checkpoint quantized by AWQ."""

    name: ClassVar[str] = "awq"
    method: ClassVar[str] = "awq"

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        key = "version" if stored_config.get("version") is not None else "format"
        return (
            None
            if stored_config.get(key) is None
            else _build_unsupported_setting_note(stored_config, key, ("gemm", "GEMM"))
        )


@dataclass
class AutoRoundConfig(Int8ActivationsConfig, GroupedConfig):
    """A checkpoint quantized by AutoRound, with tensors packed like GPTQ or AWQ."""

    name: ClassVar[str] = "auto_round"
    method: ClassVar[str] = "auto-round"

    @classmethod
    def parse_packing(cls, stored_config: dict[str, Any]) -> tuple[str, bool]:
        return ROUND_FORMATS[stored_config.get("packing_format") or "auto_round:gptq"]

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        """Return a note if weights are not integers or activations are quantized, which is unsupported."""
        if type(rows := stored_config.get("act_bits", 16)) is not int or rows < 16:
            return note("rows_of_fewer_bits", bits=rows)
        named = (
            None
            if stored_config.get("packing_format") is None
            else _build_unsupported_setting_note(stored_config, "packing_format", tuple(ROUND_FORMATS))
        )
        return named or super().find_unsupported_variant(stored_config)


def _build_unsupported_setting_note(
    stored_config: dict[str, Any], key: str, supported_values: tuple[str, ...]
) -> Note | None:
    value = stored_config.get(key)
    if value in supported_values:
        return None
    return note("setting_not_read", key=key, value=value, known=", ".join(supported_values))


def parse_bits_per_weight(bits: object, key: str) -> int:
    """Parse the bits per weight. Raises ConfigError for a number that the kernels do not support."""
    if type(bits) is not int or bits not in BITS:
        raise ConfigError(
            f"quantization_config.{key}={bits!r} must be a whole number from 2 to 8",
            key="config.json",
            code="damaged",
        )
    return bits


def parse_group_size(group_size: object) -> int:
    """Parse the number of inputs that share a scale. -1 stands for all. Raises ConfigError for
    invalid numbers.
    """
    if group_size is None:
        return -1
    if type(group_size) is not int or (group_size != -1 and group_size < 1):
        raise ConfigError(
            f"quantization_config.group_size={group_size!r} must be -1, or a whole number of at least 1",
            key="config.json",
            code="damaged",
        )
    return group_size
