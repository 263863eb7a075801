"""Render what sampling seeds do not show about training runs."""

from __future__ import annotations

from runner_compare.features.seeds.compute import rows_with_seeds
from runner_compare.features.training_seeds.compute import OF_WEIGHTS, find_training_seed_keys
from runner_compare.model.data import Table, key_label


def training_sentence(table: Table) -> str:
    """Return what a finding between rows with different training seeds refers to; "" otherwise."""
    if keys := find_training_seed_keys(table):
        return (
            f"rows differ by a training seed ({', '.join(map(key_label, keys))}): "
            "a finding between two of them is about "
            "these trained weights; whether one way to train is better takes several training runs of each, with the "
            "runs as the sample, and neither questions nor seeds of sampling say how far these are apart"
        )
    differing = [key for key in OF_WEIGHTS if len({row.run.get_value(key) for row in table.rows}) > 1]
    if differing and rows_with_seeds(table):
        return (
            f"seeds are those of sampling: of other training runs of the weights that differ here "
            f"({', '.join(map(key_label, differing))}) they say nothing"
        )
    return ""
