"""Derives the display name of a job's adapter."""

from __future__ import annotations

from runner_base import short_model_name
from runner_engine import LoraConfig


def make_adapter_display_name(lora: LoraConfig) -> str:
    """Return the adapter's Hub id, folder name, or file name without extension.

    Without an adapter, the name is `none`.
    """
    adapter = lora.single_adapter
    if adapter is None:
        return lora.name
    return short_model_name(adapter.path).removesuffix(".pth") + adapter.revision_suffix
