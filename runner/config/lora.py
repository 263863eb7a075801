"""lora – no adapter, a PEFT adapter, or a square-only adapter in a .pth file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.core.errors import check
from runner.core.fields import HASHED, MISSING, inert


@dataclass
class LoraConfig:
    """No adapter."""

    name: str = "none"

    packages: ClassVar[tuple[str, ...]] = ()  # imported to put it on

    @property
    def merges(self) -> bool:
        """Whether the base's own weights are changed for good."""
        return False


@dataclass
class AdapterConfig(LoraConfig):
    """Shared keys of the adapters: the path, and whether to merge the adapter into the weights."""

    name: str = MISSING
    path: str = inert(MISSING, HASHED)
    merge: bool = False

    kind: ClassVar[str]  # the module of runner/models/lora/ that puts it on
    in_a_file: ClassVar[bool] = False

    @property
    def merges(self) -> bool:
        """Whether the base's own weights are changed for good."""
        return self.merge

    def __post_init__(self) -> None:
        check(bool(self.path.strip()), "lora.path", repr(self.path), "give the adapter's folder, hub id or .pth file")


@dataclass
class PeftConfig(AdapterConfig):
    """A PEFT adapter: a local folder, a hub id, or `embedded` for the one that ships with the runner."""

    name: str = "peft"

    kind: ClassVar[str] = "peft"
    packages: ClassVar[tuple[str, ...]] = ("peft",)


@dataclass
class PthConfig(AdapterConfig):
    """A square-only adapter in a `.pth` file, or `embedded` for the one that ships; rank null: the file's own."""

    name: str = "pth"
    rank: int | None = None

    kind: ClassVar[str] = "pth"
    in_a_file: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.rank is None or self.rank >= 1, "lora.rank", self.rank, "must be 1 or more, or null")


def adapter_of(lora: LoraConfig) -> AdapterConfig | None:
    """Return the keys of an adapter, None when the job has none."""
    return lora if isinstance(lora, AdapterConfig) else None
