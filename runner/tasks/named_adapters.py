"""What a plan says of adapters that requests choose by name."""

from __future__ import annotations

from runner.config.resolved import ResolvedJob
from runner_base import BYTES, MIB


def words_on_adapters(resolved: ResolvedJob) -> list[str]:
    """Return the memory of each adapter beside the weights, in a line; empty without such."""
    sizes = [
        f"{name} {one.files.adapter_numbers * BYTES['float32'] / MIB:,.2f} MiB"
        for name, one in zip(resolved.spec.lora.names, resolved.apart, strict=True)
    ]
    return [f"adapters beside the weights, in float32: {', '.join(sizes)}"] if sizes else []
