"""lora: adapters, one module for each kind."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from runner.config.lora import AdapterConfig

if TYPE_CHECKING:
    from runner.models.lora.peft import AdapterReport


class AdapterKind(Protocol):
    """What a module of this folder does for its kind of adapter."""

    def check(self, lora: Any, path: Path, bare: Any, base_name: str) -> None:
        """Refuse an adapter that does not fit the model without weights; None where that cannot be built."""
        ...

    def apply(self, base: Any, lora: Any, path: Path, base_name: str) -> tuple[Any, AdapterReport]:
        """Put the adapter on; returns the adapted model, and what was matched."""
        ...

    def remove(self, model: Any) -> None:
        """Take an adapter that was not merged off again."""
        ...


def home_of(lora: AdapterConfig) -> AdapterKind:
    """Return the module that knows this kind of adapter; imported here, as some libraries are slow to import."""
    return cast(AdapterKind, importlib.import_module(f"runner.models.lora.{lora.kind}"))
