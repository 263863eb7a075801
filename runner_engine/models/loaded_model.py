"""The result of loading a model: the model, its tokenizer, metrics, facts and notes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from runner_base.notes import Note


@dataclass
class LoadedModel:
    """A loaded model, its tokenizer, and the metrics, facts and notes of its load."""

    model: Any
    tokenizer: Any
    device: torch.device
    bytes_by_dtype: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    merged: Any = None  # the report on an adapter that was merged before the model was quantized

    def add_metrics_and_facts(self, metrics_and_facts: tuple[dict[str, float], dict[str, str]]) -> None:
        metrics, facts = metrics_and_facts
        self.metrics |= metrics
        self.facts |= facts
