"""Names the families that decode slowly on a CPU, and why. Imports no torch.

Measured with `python bench/engine/families.py`: with 16 rows, a tiny model of these families decodes
at less than a quarter of the speed of a dense model of its size.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner_base.notes import Note, note
from runner_engine.checkpoints.resolved_model import ResolvedModel

REASONS: Mapping[str, Note] = {
    "rwkv": note("state_as_argument"),
    "longcat_flash": note("two_attentions_per_layer"),
}


def build_slow_family_notes(resolved: ResolvedModel) -> list[Note]:
    """Return a note if the model's family decodes slowly on this device."""
    family = str(resolved.files.text_settings.get("model_type"))
    if resolved.files.device != "cpu" or family not in REASONS:
        return []
    return [note("slow_family", family=family, reason=REASONS[family])]
