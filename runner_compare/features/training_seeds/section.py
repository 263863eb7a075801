"""Rows that are training runs of one recipe, and what seeds of sampling do not say about them.

A training seed is recognised by a key that the user has declared for it (`…training_seed`,
`…train_seed`), or in names of models and adapters that are the same but for `seed` and a number:
`adapter-seed1`, `adapter-seed2`.
"""

from __future__ import annotations

import re

from runner_compare.features.seeds.compute import rows_with_seeds
from runner_compare.model.data import Table, label
from runner_compare.section import Section

DECLARED = ("training_seed", "train_seed")  # the last part of a key
OF_WEIGHTS = ("model.name", "lora.path")
SEED = re.compile(r"(?<![a-z])seed[-_=.]?\d+", re.IGNORECASE)


class TrainingSeeds(Section):
    """Rows that are training runs of one recipe."""

    def sentences(self, table: Table) -> list[str]:
        """Say what a finding between such rows is about."""
        text = training_sentence(table)
        return [text] if text else []


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


def seeded_keys(table: Table) -> list[str]:
    """Return the keys by whose values rows are training runs of one recipe."""
    declared = {key for row in table.rows for key in row.run.params if key.rpartition(".")[2] in DECLARED}
    found = [key for key in sorted(declared) if len({row.run.value(key) for row in table.rows} - {None}) > 1]
    for key in OF_WEIGHTS:
        recipes: dict[str, set[str]] = {}
        for name in {row.run.value(key) for row in table.rows} - {None}:
            recipes.setdefault(SEED.sub("seed", name or ""), set()).add(name or "")
        if any(len(names) > 1 for names in recipes.values()):
            found.append(key)
    return found


SECTION = TrainingSeeds()
