"""Explains the table columns of tasks with several answers per question."""

from __future__ import annotations

LEGEND = (
    "With several answers to each question, accuracy and Δ are the mean over all. pass@k: one of k is right. "
    "maj@k: the vote of k is right (a tie is shared)."
)
