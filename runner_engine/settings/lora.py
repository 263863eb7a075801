"""lora – no adapter, a PEFT adapter, or one of square layers only, in a .pth file as older tools
wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner_base import HASHED, MISSING, check_keys, filled, least, setting


@dataclass
class LoraConfig:
    """No adapter."""

    name: ClassVar[str] = "none"

    packages: ClassVar[tuple[str, ...]] = ()  # needed to apply the adapter

    @property
    def merges(self) -> bool:
        """Whether the base's own weights are changed permanently."""
        return isinstance(self, AdapterConfig) and self.merge


@dataclass
class AdapterConfig(LoraConfig):
    """Shared keys of the adapters: the path, and whether to merge the adapter into the weights."""

    path: str = setting(MISSING, HASHED, filled("give the adapter's folder, hub id or .pth file"))
    merge: bool = False

    module: ClassVar[str]  # applies the adapter to a model
    is_single_file: ClassVar[bool] = False
    usual_rope: ClassVar[str | None] = (
        None  # with which adapters of this format were mostly trained
    )

    def __post_init__(self) -> None:
        check_keys("lora", self)


@dataclass
class PeftConfig(AdapterConfig):
    """A PEFT adapter: a local folder, a hub id, or one that ships, such as `embedded` or
    `embedded_recall`."""

    name: ClassVar[str] = "peft"

    module: ClassVar[str] = "runner_engine.models.lora.peft"
    packages: ClassVar[tuple[str, ...]] = ("peft",)


@dataclass
class PthConfig(AdapterConfig):
    """A square-only adapter in a `.pth` file, or `embedded` for the one that ships; rank null: as
    in the file."""

    name: ClassVar[str] = "pth"
    rank: int | None = setting(None, takes=least(1, ", or null"))

    module: ClassVar[str] = "runner_engine.models.lora.pth"
    usual_rope: ClassVar[str | None] = "rope_2d"
    is_single_file: ClassVar[bool] = True


def adapter_of(lora: LoraConfig) -> AdapterConfig | None:
    """Return the keys of the adapter, or None if the job has none."""
    return lora if isinstance(lora, AdapterConfig) else None
