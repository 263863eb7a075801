"""What a job's adapter is called where people read it."""

from __future__ import annotations

from runner_base import short_name
from runner_engine import LoraConfig


def adapter_name(lora: LoraConfig) -> str:
    """Return what to call a job's adapter: its id of the hub, its folder, or its file without the
    ending; else none."""
    adapter = lora.adapter
    if adapter is None:
        return lora.name
    return short_name(adapter.path).removesuffix(".pth") + adapter.at_revision
