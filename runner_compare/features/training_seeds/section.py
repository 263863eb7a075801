"""Section that warns that sampling seeds show nothing about other training runs of a recipe.

A training seed is recognised by a key that the user declared for it (`…training_seed`,
`…train_seed`), or in names of models and adapters that are equal except for `seed` and a
number: `adapter-seed1`, `adapter-seed2`.
"""

from __future__ import annotations

from runner_compare.features.training_seeds.render import short_training_sentence, training_sentence
from runner_compare.model.data import Table
from runner_compare.section import Section


class TrainingSeeds(Section):
    """Report section about rows that are training runs of one recipe."""

    def sentences(self, table: Table) -> list[str]:
        text = training_sentence(table)
        return [text] if text else []

    def short_sentences(self, table: Table) -> list[str]:
        """Return the warning about training seeds in one line."""
        text = short_training_sentence(table)
        return [text] if text else []


SECTION = TrainingSeeds()
