"""lora=pth – a square-only adapter in a .pth file, as older tools wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner_base.bounds import least
from runner_base.fields import setting
from runner_engine.settings.lora import AdapterConfig


@dataclass
class PthConfig(AdapterConfig):
    """A square-only adapter in a `.pth` file, or `embedded` for the one that ships; rank null: as in the file."""

    name: ClassVar[str] = "pth"
    rank: int | None = setting(None, takes=least(1, ", or null"))

    module: ClassVar[str] = "runner.compat.pth"
    usual_rope: ClassVar[str | None] = "rope_2d"
    is_single_file: ClassVar[bool] = True
