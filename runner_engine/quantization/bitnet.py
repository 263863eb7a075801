"""Checkpoints of BitNet: weights of -1, 0 and 1, four in a byte, multiplied by rows of int8.

The runner reads them itself (runner_engine/models/layouts/ternary.py). `none` also loads them as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.base import Format, StoredTensors
from runner_engine.quantization.grouped import GroupedConfig, GroupSettings

# what happens to outputs by the scale
LINEAR_CLASSES = {"bitlinear": "divided", "autobitlinear": "multiplied"}


@dataclass
class BitnetConfig(GroupedConfig):
    """A checkpoint of ternary weights (b1.58)."""

    name: ClassVar[str] = "bitnet"
    method: ClassVar[str] = "bitnet"
    tensors: ClassVar[StoredTensors] = StoredTensors((".weight",))

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:
        """There are no keys but the class of layers."""
        return (
            Format(cls.method, cls(), 2, cls.name, refusal=cls.refusal_of(stored))
            if cls.is_own(stored)
            else None
        )

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """Both classes of layers round rows alike."""
        return GroupSettings(
            "ternary", (2,), -1, rows=LINEAR_CLASSES[stored.get("linear_class", "bitlinear")]
        )

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:
        """Weights are packed, and rows are not normalized once more."""
        linear_class = stored.get("linear_class", "bitlinear")
        if linear_class not in LINEAR_CLASSES:
            known = ", ".join(LINEAR_CLASSES)
            return note("setting_not_read", key="linear_class", value=linear_class, known=known)
        if (mode := stored.get("quantization_mode", "offline")) != "offline":
            return note("quantized_online", value=mode)
        if stored.get("use_rms_norm"):
            return note("norm_in_layers", value=stored["use_rms_norm"])
        return None
