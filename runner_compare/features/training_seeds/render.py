"""What seeds of sampling do not say about training runs, in words."""

from __future__ import annotations

from runner_compare.features.seeds.compute import rows_with_seeds
from runner_compare.features.training_seeds.compute import OF_WEIGHTS, seeded_keys
from runner_compare.model.data import Table, label


def training_sentence(table: Table) -> str:
    """Say what a finding between rows of unlike training seeds is about; empty for other tables."""
    if keys := seeded_keys(table):
        return (
            f"rows differ by a training seed ({', '.join(map(label, keys))}): a finding between two of them is about "
            "these trained weights; whether one way to train is better takes several training runs of each, with the "
            "runs as the sample, and neither questions nor seeds of sampling say how far these are apart"
        )
    differing = [key for key in OF_WEIGHTS if len({row.run.value(key) for row in table.rows}) > 1]
    if differing and rows_with_seeds(table):
        return (
            f"seeds are those of sampling: of other training runs of the weights that differ here "
            f"({', '.join(map(label, differing))}) they say nothing"
        )
    return ""
