"""Loads a checkpoint as it is, or lets a library quantize it meanwhile."""

from __future__ import annotations

from typing import Any

from runner_engine.models.loading.contract import WayOfLoading


class Way(WayOfLoading):
    """transformers reads it. What a checkpoint stores quantized, its config.json tells
    transformers."""

    def prepare(self) -> dict[str, Any]:
        """Return the library's arguments."""
        return {} if self.resolved.files.stored is not None else self.resolved.mix.base.load_arguments()
