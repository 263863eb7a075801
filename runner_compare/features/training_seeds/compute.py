"""Finds config keys, such as training seeds, that differ between training runs of one recipe."""

from __future__ import annotations

import re

from runner_compare.model.data import Table

DECLARED = ("training_seed", "train_seed")  # the last part of a key
OF_WEIGHTS = ("model.name", "lora.path")
SEED = re.compile(r"(?<![a-z])seed[-_=.]?\d+", re.IGNORECASE)


def find_training_seed_keys(table: Table) -> list[str]:
    declared = {key for row in table.rows for key in row.run.params if key.rpartition(".")[2] in DECLARED}
    found = [
        key for key in sorted(declared) if len({row.run.get_value(key) for row in table.rows} - {None}) > 1
    ]
    for key in OF_WEIGHTS:
        recipes: dict[str, set[str]] = {}
        for name in {row.run.get_value(key) for row in table.rows} - {None}:
            recipes.setdefault(SEED.sub("seed", name or ""), set()).add(name or "")
        if any(len(names) > 1 for names in recipes.values()):
            found.append(key)
    return found
