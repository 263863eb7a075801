"""Report section that warns if findings may not hold for training runs with other seeds.

A training seed is recognised by a key that the user declared for it (`…training_seed`,
`…train_seed`), or in names of models and adapters that are equal except for `seed` and a
number: `adapter-seed1`, `adapter-seed2`.
"""

from __future__ import annotations

from runner_compare.features.training_seeds.render import (
    format_short_training_sentence,
    format_training_seed_warning,
)
from runner_compare.model.data import Table
from runner_compare.section import Section


class TrainingSeeds(Section):
    """Report section that warns about comparisons of training runs that differ only in the seed."""

    def sentences(self, table: Table) -> list[str]:
        text = format_training_seed_warning(table)
        return [text] if text else []

    def short_sentences(self, table: Table) -> list[str]:
        text = format_short_training_sentence(table)
        return [text] if text else []


SECTION = TrainingSeeds()
