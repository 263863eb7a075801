"""What a plan says of adapters that requests choose by name."""

from __future__ import annotations

from runner.config.resolved import ResolvedJob
from runner_base import BYTES, MIB
from runner_base.notes import Note, note


def adapter_notes(resolved: ResolvedJob) -> list[Note]:
    """Return the memory of each adapter beside the weights, in a note; empty without such."""
    mib = {
        name: one.files.adapter_numbers * BYTES["float32"] / MIB
        for name, one in zip(resolved.model.spec.lora.names, resolved.model.apart, strict=True)
    }
    return [note("adapters", mib=mib)] if mib else []
