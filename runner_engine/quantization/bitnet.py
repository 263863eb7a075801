"""BitNet checkpoints: ternary weights (-1, 0, 1), four per byte, multiplied by int8 activations.

The runner reads them itself (runner_engine/models/layouts/ternary.py). `none` also loads them as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.base import StoredFormat, StoredTensorNames
from runner_engine.quantization.grouped import GroupedConfig, GroupSettings

# what happens to outputs by the scale
LINEAR_CLASSES = {"bitlinear": "divided", "autobitlinear": "multiplied"}


@dataclass
class BitnetConfig(GroupedConfig):
    """A BitNet checkpoint (b1.58) with ternary weights."""

    name: ClassVar[str] = "bitnet"
    method: ClassVar[str] = "bitnet"
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".weight",))

    @classmethod
    def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:
        return (
            StoredFormat(cls.method, cls(), 2, cls.name, refusal=cls.find_unsupported_variant(stored_config))
            if cls.matches_config(stored_config)
            else None
        )

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Return the layer settings. The BitNet layer class determines whether outputs are divided
        or multiplied by the scale.
        """
        return GroupSettings(
            "ternary", (2,), -1, rows=LINEAR_CLASSES[stored_config.get("linear_class", "bitlinear")]
        )

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        linear_class = stored_config.get("linear_class", "bitlinear")
        if linear_class not in LINEAR_CLASSES:
            known = ", ".join(LINEAR_CLASSES)
            return note("setting_not_read", key="linear_class", value=linear_class, known=known)
        if (mode := stored_config.get("quantization_mode", "offline")) != "offline":
            return note("quantized_online", value=mode)
        if stored_config.get("use_rms_norm"):
            return note("norm_in_layers", value=stored_config["use_rms_norm"])
        return None
