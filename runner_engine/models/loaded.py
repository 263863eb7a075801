"""A loaded model with its tokenizer, and what is reported of the load."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from runner_base.notes import Note


@dataclass
class Loaded:
    """A model with its tokenizer, and a report on the load."""

    model: Any
    tokenizer: Any
    device: torch.device
    bytes_by_dtype: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    merged: Any = None  # the report on an adapter that was merged before the model was quantized

    def report(self, described: tuple[dict[str, float], dict[str, str]]) -> None:
        """Add metrics and facts to the report."""
        metrics, facts = described
        self.metrics |= metrics
        self.facts |= facts
