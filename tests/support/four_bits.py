"""Quantized layers where the processor multiplies no bfloat16, or no bytes: their library multiplies them, and a note says so."""

from __future__ import annotations

from collections.abc import Iterable

from runner.core import machine
from runner.engines.local.quantized_layers import MULTIPLIES_BYTES, NOT_PACKED


def other_notes(notes: Iterable[str]) -> list[str]:
    """The notes of an engine without those two, on processors where they belong."""
    expected = [] if machine.has_bfloat16_products() else [NOT_PACKED]
    if not machine.has_quantized_kernels():
        expected.append(MULTIPLIES_BYTES)
    return [note for note in notes if not any(words in note for words in expected)]
