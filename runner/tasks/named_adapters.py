"""Creates notes for plan=true on the LoRA adapters that requests can select by name."""

from __future__ import annotations

from runner.config.resolved import ResolvedJob
from runner_base import BYTES, MIB
from runner_base.notes import Note, note


def build_adapter_memory_notes(resolved: ResolvedJob) -> list[Note]:
    """Return a note with the memory in MiB of each LoRA adapter that requests can select. Empty without
    such adapters.
    """
    mib = {
        name: one.files.num_adapter_parameters * BYTES["float32"] / MIB
        for name, one in zip(
            resolved.model.spec.lora.adapter_names, resolved.model.single_adapter_models, strict=True
        )
    }
    return [note("adapters", mib=mib)] if mib else []
