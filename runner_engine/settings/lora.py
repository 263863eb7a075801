"""lora – no adapter, a PEFT adapter, or one of square layers only, in a .pth file as older tools
wrote it."""

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
    check,
    check_keys,
    filled,
    least,
    setting,
)
from runner_engine.quantization.base import CheckpointSource
from runner_engine.quantization.capabilities import quantizes_layers

if TYPE_CHECKING:
    from runner_engine.quantization.mixed import Mix


class MergeOrder(StrEnum):
    """Whether an adapter is merged before the model is quantized, or after."""

    merge_first = "merge_first"
    quantize_first = "quantize_first"


@dataclass
class LoraConfig:
    """No adapter."""

    name: ClassVar[str] = "none"

    packages: ClassVar[tuple[str, ...]] = ()  # needed to apply the adapter
    adapts: ClassVar[bool] = False  # whether there is an adapter, or several

    @property
    def adapter(self) -> AdapterConfig | None:
        """The keys of the one adapter, or None if the job has none."""
        return self if isinstance(self, AdapterConfig) else None

    @property
    def each(self) -> list[PeftConfig]:
        """Return the adapters among which each request chooses; none if all get the same."""
        return []

    @property
    def names(self) -> list[str]:
        """Return what requests call these adapters."""
        return []

    @property
    def merges(self) -> bool:
        """Whether the base's own weights are changed permanently."""
        return isinstance(self, AdapterConfig) and self.merge

    def check_merging(self, mix: Mix) -> None:
        """Reject a merge whose order is not said, or that a quantization cannot take part in."""

    def check_named(self, task: str, names: Sequence[str] | None) -> None:
        """Reject names that a task's requests have for adapters, where there are no such; None: any
        that exist."""
        if names:
            raise ConfigError(
                f"task={task} names adapters ({', '.join(names)}), and lora={self.name} has none by name: use "
                f"lora=several 'lora.adapters={{{names[0]}: FOLDER}}'",
                code="missing",
            )

    def require_no_scheduler(self, why: str) -> None:
        """Raise ConfigError if the scheduler cannot decode rows, and these need it."""

    @property
    def merges_first(self) -> bool:
        """Whether that is done before the model is quantized."""
        return isinstance(self, AdapterConfig) and self.merge and self.merge_order is MergeOrder.merge_first


@dataclass
class AdapterConfig(LoraConfig):
    """Shared keys of the adapters: the path, and whether and how to merge the adapter into the
    weights."""

    path: str = setting(MISSING, HASHED, filled("give the adapter's folder, hub id or .pth file"))
    merge: bool = False
    merge_order: MergeOrder | None = setting(None, UNLESS_DEFAULT)
    merge_dtype: Dtype = setting(Dtype.auto, UNLESS_DEFAULT)

    adapts: ClassVar[bool] = True
    module: ClassVar[str]  # applies the adapter to a model
    is_single_file: ClassVar[bool] = False
    usual_rope: ClassVar[str | None] = None  # with which adapters of this format were mostly trained

    def __post_init__(self) -> None:
        check_keys("lora", self)
        for key in ("merge_order", "merge_dtype"):
            value = getattr(self, key)
            need = "it says how an adapter is merged: use lora.merge=true, too"
            check(self.merge or value in (None, Dtype.auto), f"lora.{key}", value, need, "no_effect")

    @property
    def key(self) -> str:
        """Return the key that says where it is."""
        return "lora.path"

    @property
    def label(self) -> str:
        """Return what errors call it."""
        return f"{self.key}={self.path}"

    @property
    def at_revision(self) -> str:
        """Return what a name says of the revision on a hub; empty without one."""
        return ""

    def check_merging(self, mix: Mix) -> None:
        """Reject a merge whose order is not said, or that a quantization cannot take part in."""
        label = mix.base.label
        if not self.merge:
            return
        if not mix.quantizes:
            if self.merge_order is not None:
                raise ConfigError(
                    f"lora.merge_order={self.merge_order} with quantization={label}: nothing is quantized, before or "
                    "after: leave it out",
                    code="no_effect",
                )
            return
        if self.merge_order is None:
            raise ConfigError(
                f"lora.merge=true with quantization={label}: merging into quantized weights loses precision; use "
                "lora.merge=false, or quantization=none, or say in which order it shall be done, "
                "lora.merge_order=merge_first or quantize_first",
                code="missing",
            )
        if not all(
            choice.source is CheckpointSource.plain and quantizes_layers(type(choice))
            for choice in mix.choices
        ):
            raise ConfigError(
                f"lora.merge=true with quantization={label}, lora.merge_order={self.merge_order}: it quantizes no "
                "plain layer, so that a merged one cannot be quantized: use lora.merge=false, or nf4",
                code="unsupported",
            )


@dataclass
class PeftConfig(AdapterConfig):
    """A PEFT adapter: a local folder, a hub id, or one that ships, such as `embedded` or
    `embedded_recall`."""

    name: ClassVar[str] = "peft"
    revision: str | None = setting(None, HASHED)

    module: ClassVar[str] = "runner_engine.models.lora.peft"
    packages: ClassVar[tuple[str, ...]] = ("peft",)

    @property
    def at_revision(self) -> str:
        """Return what a name says of the revision on a hub; empty without one."""
        return f"@{self.revision}" if self.revision else ""


@dataclass
class PthConfig(AdapterConfig):
    """A square-only adapter in a `.pth` file, or `embedded` for the one that ships; rank null: as
    in the file."""

    name: ClassVar[str] = "pth"
    rank: int | None = setting(None, takes=least(1, ", or null"))

    module: ClassVar[str] = "runner_engine.models.lora.pth"
    usual_rope: ClassVar[str | None] = "rope_2d"
    is_single_file: ClassVar[bool] = True
