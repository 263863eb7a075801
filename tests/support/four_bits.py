"""4-bit layers where the processor multiplies no bfloat16: bitsandbytes does not pack their weights, and a note says so."""

from __future__ import annotations

from collections.abc import Iterable

from runner.core import machine
from runner.engines.local.quantized_layers import NOT_PACKED


def other_notes(notes: Iterable[str]) -> list[str]:
    """The notes of an engine without that one, on processors where it belongs."""
    return [note for note in notes if machine.has_bfloat16_products() or NOT_PACKED not in note]
