"""Loading backend that lets transformers read a checkpoint, and a library quantize it meanwhile."""

from __future__ import annotations

from typing import Any

from runner_engine.models.loading.contract import LoadingBackend


class Backend(LoadingBackend):
    """Loads with transformers. For a quantized checkpoint, its config.json selects the library."""

    def prepare_arguments(self) -> dict[str, Any]:
        """Return the quantization library's arguments."""
        return (
            {}
            if self.resolved.files.stored_format is not None
            else self.resolved.quantization_mix.base.load_arguments()
        )
