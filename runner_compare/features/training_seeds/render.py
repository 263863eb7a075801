"""Formats a warning that sampling seeds do not measure the variation between training runs."""

from __future__ import annotations

from runner_compare.features.seeds.compute import rows_with_seeds
from runner_compare.features.training_seeds.compute import OF_WEIGHTS, find_training_seed_keys
from runner_compare.model.data import Table, key_label


def format_training_seed_warning(table: Table) -> str:
    """Return a warning if runs differ in a training seed or in their weights; otherwise ""."""
    if keys := find_training_seed_keys(table):
        return (
            f"the runs differ in a training seed ({', '.join(map(key_label, keys))}), "
            "so findings apply only to these weights. "
            "To compare two training methods, train several times with each and compare the training runs. "
            "Questions and sampling seeds do not measure the variation between training runs."
        )
    differing = [key for key in OF_WEIGHTS if len({row.run.get_value(key) for row in table.rows}) > 1]
    if differing and rows_with_seeds(table):
        return (
            "these seeds affect only sampling, so findings may not hold for other training runs "
            f"({', '.join(map(key_label, differing))})."
        )
    return ""


def format_short_training_sentence(table: Table) -> str:
    if keys := find_training_seed_keys(table):
        return f"findings hold only for these weights: {', '.join(map(key_label, keys))} is a training seed."
    return "The seeds vary sampling, not training." if format_training_seed_warning(table) else ""
