"""rope: native – the model's own rotary embedding, and what it is, read off the loaded model."""

from __future__ import annotations

from typing import Any


def describe(model: Any) -> str:
    """Name the rotary embedding of a loaded model: its type and base, or that it has none."""
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None)
    if not parameters:
        return "none"
    return f"{parameters.get('rope_type', 'default')}, theta {parameters.get('rope_theta', '?')}"
