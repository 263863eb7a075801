"""Sentences on what sampling seeds do not show about training runs."""

from __future__ import annotations

from runner_compare.features.seeds.compute import rows_with_seeds
from runner_compare.features.training_seeds.compute import OF_WEIGHTS, find_training_seed_keys
from runner_compare.model.data import Table, key_label


def training_sentence(table: Table) -> str:
    """Return a sentence on what a finding between rows with different training seeds refers to;
    else "".
    """
    if keys := find_training_seed_keys(table):
        return (
            f"runs differ by a training seed ({', '.join(map(key_label, keys))}): "
            "a finding between two of them is about "
            "these trained weights. To compare two ways to train, train several times with each, and take the training "
            "runs as the sample. Neither questions nor seeds of sampling show how far training runs are apart."
        )
    differing = [key for key in OF_WEIGHTS if len({row.run.get_value(key) for row in table.rows}) > 1]
    if differing and rows_with_seeds(table):
        return (
            f"seeds are those of sampling: they show nothing about other training runs of the weights that differ here "
            f"({', '.join(map(key_label, differing))})."
        )
    return ""


def short_training_sentence(table: Table) -> str:
    """Return one line on what a finding between rows with different training seeds refers to."""
    if keys := find_training_seed_keys(table):
        return (
            f"{', '.join(map(key_label, keys))} is a training seed: a finding holds for these weights only."
        )
    return "Seeds are those of sampling, not of training." if training_sentence(table) else ""
