"""Config group `lora`: no adapter, a PEFT adapter, or a .pth adapter for square layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from runner_base import (
    HASHED,
    MISSING,
    UNLESS_DEFAULT,
    ConfigError,
    Dtype,
    at_least,
    check_config_values,
    check_value,
    config_field,
    not_blank,
)
from runner_engine.quantization.base import CheckpointSource
from runner_engine.quantization.capabilities import can_quantize_layers

if TYPE_CHECKING:
    from runner_engine.quantization.quantization_mix import QuantizationMix


class MergeOrder(StrEnum):
    """Whether an adapter is merged before or after the model is quantized."""

    merge_first = "merge_first"
    quantize_first = "quantize_first"


@dataclass
class LoraConfig:
    """The choice `lora=none`, and base class of all choices with adapters."""

    name: ClassVar[str] = "none"

    packages: ClassVar[tuple[str, ...]] = ()  # needed to apply the adapter
    adapts: ClassVar[bool] = False  # whether there is an adapter, or several

    @property
    def single_adapter(self) -> AdapterConfig | None:
        """The adapter that all requests use. None if there is no adapter, or if there are several."""
        return self if isinstance(self, AdapterConfig) else None

    @property
    def selectable_adapters(self) -> list[PeftConfig]:
        """The adapters from which requests can select. Empty if all requests use the same adapter."""
        return []

    @property
    def adapter_names(self) -> list[str]:
        """The names by which requests select adapters."""
        return []

    @property
    def merges_adapter(self) -> bool:
        """Whether the adapter is merged, which permanently changes the base model's weights."""
        return isinstance(self, AdapterConfig) and self.merge

    def check_merge_settings(self, quantization_mix: QuantizationMix) -> None:
        """Raise ConfigError if a required merge order is missing, or if the quantization does not
        support merging.
        """

    def check_adapter_names(self, task: str, requested_names: Sequence[str] | None) -> None:
        """Raise ConfigError if the requests of a task select adapters that do not exist.

        requested_names: None if the requests are not known yet.
        """
        if requested_names:
            raise ConfigError(
                f"task={task} selects adapters by name ({', '.join(requested_names)}), "
                f"but lora={self.name} has no named adapters. Use "
                f"lora=several 'lora.adapters={{{requested_names[0]}: FOLDER}}'",
                code="missing",
            )

    def reject_scheduler_only_settings(self, reason: str) -> None:
        """Raise ConfigError if this choice of adapters needs the scheduler.

        reason: why the scheduler cannot be used.
        """

    @property
    def merges_before_quantization(self) -> bool:
        """Whether the adapter is merged before the model is quantized."""
        return isinstance(self, AdapterConfig) and self.merge and self.merge_order is MergeOrder.merge_first


@dataclass
class AdapterConfig(LoraConfig):
    """Config of a single adapter: its path, and how it is merged."""

    path: str = config_field(MISSING, HASHED, not_blank("must be the adapter's folder, hub ID or .pth file"))
    merge: bool = False
    merge_order: MergeOrder | None = config_field(None, UNLESS_DEFAULT)
    merge_dtype: Dtype = config_field(Dtype.auto, UNLESS_DEFAULT)

    adapts: ClassVar[bool] = True
    module: ClassVar[str]  # applies the adapter to a model
    is_single_file: ClassVar[bool] = False
    usual_rope: ClassVar[str | None] = None  # with which adapters of this format were mostly trained

    def __post_init__(self) -> None:
        check_config_values("lora", self)
        for key in ("merge_order", "merge_dtype"):
            value = getattr(self, key)
            need = "has no effect unless the adapter is merged. Set lora.merge=true"
            check_value(self.merge or value in (None, Dtype.auto), f"lora.{key}", value, need, "no_effect")

    @property
    def path_key(self) -> str:
        return "lora.path"

    @property
    def label(self) -> str:
        """The adapter as KEY=VALUE, for error messages."""
        return f"{self.path_key}={self.path}"

    @property
    def revision_suffix(self) -> str:
        return ""

    def check_merge_settings(self, quantization_mix: QuantizationMix) -> None:
        """Raise ConfigError if a required merge order is missing, or if the quantization does not
        support merging.
        """
        label = quantization_mix.base.label
        if not self.merge:
            return
        if not quantization_mix.quantizes:
            if self.merge_order is not None:
                raise ConfigError(
                    f"lora.merge_order={self.merge_order} has no effect with quantization={label}, which "
                    "quantizes nothing. Omit lora.merge_order",
                    code="no_effect",
                )
            return
        if self.merge_order is None:
            raise ConfigError(
                f"lora.merge=true with quantization={label}: merging into quantized weights loses precision. "
                "Use lora.merge=false or quantization=none, or set "
                "lora.merge_order=merge_first or quantize_first",
                code="missing",
            )
        if not all(
            choice.source is CheckpointSource.plain and can_quantize_layers(type(choice))
            for choice in quantization_mix.quantizing_configs
        ):
            raise ConfigError(
                f"lora.merge=true with quantization={label}, lora.merge_order={self.merge_order}: this "
                "quantization cannot quantize merged layers. Use lora.merge=false, or quantization=nf4",
                code="unsupported",
            )


@dataclass
class PeftConfig(AdapterConfig):
    """A PEFT adapter: a local folder, a hub id, or a bundled adapter such as `embedded`."""

    name: ClassVar[str] = "peft"
    revision: str | None = config_field(None, HASHED)

    module: ClassVar[str] = "runner_engine.models.lora.peft"
    packages: ClassVar[tuple[str, ...]] = ("peft",)

    @property
    def revision_suffix(self) -> str:
        return f"@{self.revision}" if self.revision else ""


@dataclass
class PthConfig(AdapterConfig):
    """An adapter for square layers in a `.pth` file. `embedded` selects the bundled adapter.

    rank null: the rank of the matrices in the file.
    """

    name: ClassVar[str] = "pth"
    rank: int | None = config_field(None, constraint=at_least(1, ", or null"))

    module: ClassVar[str] = "runner_engine.models.lora.pth"
    usual_rope: ClassVar[str | None] = "rope_2d"
    is_single_file: ClassVar[bool] = True
