"""Loading backend that merges an adapter into an unquantized model, then quantizes the linear
layers one by one.
"""

from __future__ import annotations

from typing import Any

from runner_engine.models.loading import mixed
from runner_engine.models.lora import merging


class Backend(mixed.Backend):
    """Loads an unquantized checkpoint into main memory, merges an adapter, and quantizes the result."""

    def quantize_after_load(self, model: Any) -> Any:
        """Merge the adapter, then quantize each layer with the quantization config for its path."""
        model, self.merged = merging.merge_adapter(model, self.resolved)
        return super().quantize_after_load(model)
