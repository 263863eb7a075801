"""Checkpoints of integers with a scale for each group of inputs: GPTQ, AWQ, AutoRound.

The runner reads them itself (runner_engine/models/grouped.py). `none` also loads them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.quantization.base import (
    CheckpointSource,
    Format,
    OwnLayers,
    Products,
    Quantized,
    StoredTensors,
    WithByteRows,
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
    """What a config.json says about its layers; a layer's tensors may have other bits and
    groups."""

    layout: str  # its name in runner_engine/models/loading/stored_groups.py
    bits: tuple[int, ...]
    group: int  # inputs that share a scale; -1: all
    is_minus_one: bool = False  # zero points are stored minus one
    rows: str = ""  # how rows are rounded (`prepared` of the layout)
    row_group: int = -1  # numbers of a row that share a scale; -1: all
    outputs: int = 1  # that share a scale; -1: all
    unused: tuple[str, ...] = ()  # ends of the names of tensors that no layer takes


@dataclass
class GroupedConfig(Quantized):
    """What these formats have in common."""

    source: ClassVar[CheckpointSource] = CheckpointSource.quantized
    holders: ClassVar[tuple[str, ...]] = ("runner_engine.models.grouped",)
    tensors: ClassVar[StoredTensors] = StoredTensors((".qweight",))
    own_layers: ClassVar[OwnLayers | None] = OwnLayers.groups

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes in model.dtype, for a weight that is not packed; packed ones are as
        large as on disk."""
        return numbers * dtype_bytes, 0

    def products(self, dtype_bytes: int) -> Products:
        """The copy is in the dtype of the activations; the engine multiplies groups on every
        processor."""
        return Products(dtype_bytes, dtype_bytes in (2, 4))

    def load_arguments(self) -> dict[str, Any]:
        """Return nothing: the checkpoint contains the settings."""
        return {}

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:
        """Read the bits; a variant that the runner cannot read is refused by name."""
        if not cls.is_own(stored):
            return None
        refusal = cls.refusal_of(stored)
        bits = 8 if refusal else cls.settings_of(stored).bits[0]
        return Format(str(stored["quant_method"]), cls(), bits, cls.name, refusal=refusal)

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """Return what a quantization_config says about its layers; ConfigError where a number makes
        no sense."""
        bits = bits_of(stored.get("bits", stored.get("w_bit", 4)), "bits")
        group = group_of(stored.get("group_size", stored.get("q_group_size", 128)))
        layout, is_minus_one = cls.packing_of(stored)
        if layout == "awq" and bits != 4:
            raise ConfigError(
                f"quantization_config.bits={bits}: AWQ's layout has 4", key="config.json", code="unsupported"
            )
        return GroupSettings(layout, (bits,), group, is_minus_one)

    @classmethod
    def packing_of(cls, stored: dict[str, Any]) -> tuple[str, bool]:  # noqa: ARG003
        """Return the layout of the tensors, and whether zero points are stored minus one."""
        return cls.method, False

    @classmethod
    def is_own(cls, stored: dict[str, Any]) -> bool:
        """Whether a quantization_config is this choice's."""
        return stored.get("quant_method") == cls.method

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:
        """Return why the runner cannot read a checkpoint of this method; None if it can."""
        return _one_of(stored, "data_type", ("int",)) if stored.get("data_type") is not None else None


@dataclass
class GptqConfig(WithByteRows, GroupedConfig):
    """A checkpoint that GPTQ has quantized already."""

    name: ClassVar[str] = "gptq"
    method: ClassVar[str] = "gptq"

    @classmethod
    def packing_of(cls, stored: dict[str, Any]) -> tuple[str, bool]:
        """Only the second version stores zero points as they are."""
        return cls.method, (stored.get("checkpoint_format") or stored.get("format")) != "gptq_v2"

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:
        """Other layouts are for the kernels of one kind of GPU."""
        key = "checkpoint_format" if stored.get("checkpoint_format") is not None else "format"
        return None if stored.get(key) is None else _one_of(stored, key, GPTQ_FORMATS)


@dataclass
class AwqConfig(WithByteRows, GroupedConfig):
    """A checkpoint that AWQ has quantized already."""

    name: ClassVar[str] = "awq"
    method: ClassVar[str] = "awq"

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:
        """Other layouts are for the kernels of one kind of GPU."""
        key = "version" if stored.get("version") is not None else "format"
        return None if stored.get(key) is None else _one_of(stored, key, ("gemm", "GEMM"))


@dataclass
class AutoRoundConfig(WithByteRows, GroupedConfig):
    """A checkpoint that AutoRound has quantized already, packed as GPTQ or AWQ."""

    name: ClassVar[str] = "auto_round"
    method: ClassVar[str] = "auto-round"

    @classmethod
    def packing_of(cls, stored: dict[str, Any]) -> tuple[str, bool]:
        """It has a name for the packing."""
        return ROUND_FORMATS[stored.get("packing_format") or "auto_round:gptq"]

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:
        """Only weights are quantized, to integers."""
        if type(rows := stored.get("act_bits", 16)) is not int or rows < 16:
            return note("rows_of_fewer_bits", bits=rows)
        named = (
            None
            if stored.get("packing_format") is None
            else _one_of(stored, "packing_format", tuple(ROUND_FORMATS))
        )
        return named or super().refusal_of(stored)


def _one_of(stored: dict[str, Any], key: str, known: tuple[str, ...]) -> Note | None:
    value = stored.get(key)
    if value in known:
        return None
    return note("setting_not_read", key=key, value=value, known=", ".join(known))


def bits_of(value: object, key: str) -> int:
    """Return a number of bits that the kernels multiply; ConfigError for any other."""
    if type(value) is not int or value not in BITS:
        raise ConfigError(
            f"quantization_config.{key}={value!r}: a whole number from 2 to 8 expected",
            key="config.json",
            code="damaged",
        )
    return value


def group_of(value: object) -> int:
    """Return how many inputs share a scale, -1 for all; ConfigError for what is no such number."""
    if value is None:
        return -1
    if type(value) is not int or (value != -1 and value < 1):
        raise ConfigError(
            f"quantization_config.group_size={value!r}: -1, or a whole number from 1, expected",
            key="config.json",
            code="damaged",
        )
    return value
