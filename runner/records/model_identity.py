"""Describes a job's model for the job record: name, digest and params."""

from __future__ import annotations

import re
from typing import Any

from runner.config.root import RunnerConfig, iterate_job_id_keys
from runner_base import compute_short_json_hash, short_model_name

GROUPS = ("model", "quantization", "lora", "rope")  # what is loaded


def describe_model(
    config: RunnerConfig, params: dict[str, str], model_sha256: str, adapter_name: str
) -> dict[str, Any]:
    """Return name, digest and params of a job's model. Empty for a job without a model."""
    if not model_sha256:
        return {}
    of_model = {key: value for key, value in params.items() if key.partition(".")[0] in GROUPS}
    counted = {
        key: str(value) for key, value in iterate_job_id_keys(config) if key.partition(".")[0] in GROUPS
    }
    identity = [model_sha256, sorted(counted.items()), of_model.get("lora.path")]
    called = f"lora-{adapter_name}" if config.lora.single_adapter else "none"
    names = [short_model_name(config.model.name), config.quantization.label, called, config.rope.name]
    name = " ".join(part for part in names if part not in ("none", "native"))
    digest = compute_short_json_hash(identity, 16)
    return {"name": re.sub(r"[^\w\- ]", "-", name)[:200], "digest": digest, "params": of_model}
