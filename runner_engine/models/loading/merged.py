"""Merges an adapter into a plain model, and quantizes the linear layers of the merged model one by
one."""

from __future__ import annotations

from typing import Any

from runner_engine.models.loading import mixed
from runner_engine.models.lora import merging


class Way(mixed.Way):
    """As a mix is quantized: transformers reads the plain checkpoint into main memory."""

    def finish(self, model: Any) -> Any:
        """Merge the adapter, and quantize each layer as its choice says."""
        model, self.merged = merging.merge(model, self.resolved)
        return super().finish(model)
