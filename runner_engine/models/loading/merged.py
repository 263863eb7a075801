"""Loading backend that merges an adapter into a plain model, then quantizes its linear layers one by one."""

from __future__ import annotations

from typing import Any

from runner_engine.models.loading import mixed
from runner_engine.models.lora import merging


class Backend(mixed.Backend):
    """Loads a plain checkpoint into main memory, to merge and quantize it there."""

    def quantize_after_load(self, model: Any) -> Any:
        """Merge the adapter, then quantize each layer by its config."""
        model, self.merged = merging.merge_adapter(model, self.resolved)
        return super().quantize_after_load(model)
