"""What a record says of its job's model: its name, a digest of all that distinguishes it, and its params."""

from __future__ import annotations

import re
from typing import Any

from runner.config.root import RunnerConfig, semantic_keys
from runner_base import short_hash, short_name

GROUPS = ("model", "quantization", "lora", "rope")  # what is loaded


def describe(config: RunnerConfig, params: dict[str, str], model_sha256: str, adapter: str) -> dict[str, Any]:
    """Return name, digest and params of a job's model with the adapter so called; empty for a job
    without a model."""
    if not model_sha256:
        return {}
    of_model = {key: value for key, value in params.items() if key.partition(".")[0] in GROUPS}
    counted = {key: str(value) for key, value in semantic_keys(config) if key.partition(".")[0] in GROUPS}
    identity = [model_sha256, sorted(counted.items()), of_model.get("lora.path")]
    called = f"lora-{adapter}" if config.lora.adapter else "none"
    names = [short_name(config.model.name), config.quantization.label, called, config.rope.name]
    name = " ".join(part for part in names if part not in ("none", "native"))
    digest = short_hash(identity, 16)
    return {"name": re.sub(r"[^\w\- ]", "-", name)[:200], "digest": digest, "params": of_model}
