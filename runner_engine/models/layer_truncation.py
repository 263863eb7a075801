"""Truncates a loaded model to its first layers, for use as a draft model."""

from __future__ import annotations

from typing import Any

from torch import nn

from runner_base import ConfigError
from runner_engine.settings.speculation import KEY

# lists with an entry for each
OF_LAYERS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers")


def keep_first_layers(model: Any, num_layers: int) -> None:
    """Remove all decoder layers after the first `num_layers`. Embedding, final norm and lm_head remain."""
    settings = model.config.get_text_config()
    whole = settings.num_hidden_layers
    lists = [
        part
        for part in model.modules()
        if isinstance(part, nn.ModuleList) and len(part) == whole and whole > 1
    ]
    if num_layers == whole:
        return
    if len(lists) != 1 or num_layers > whole:
        raise ConfigError(
            f"the model cannot be truncated to its first {num_layers} layers. Omit this key",
            key=KEY,
            code="unsupported",
        )
    del lists[0][num_layers:]
    settings.num_hidden_layers = num_layers
    for name in OF_LAYERS:
        entries = getattr(settings, name, None)
        if isinstance(entries, list) and len(entries) == whole:
            setattr(settings, name, entries[:num_layers])
