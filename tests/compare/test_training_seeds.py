"""Rows that are training runs of one recipe are recognised, and a sentence says what a finding
between them is about."""

from __future__ import annotations

import pytest

from runner_compare.features.training_seeds.compute import find_training_seed_keys
from runner_compare.features.training_seeds.render import format_training_seed_warning
from runner_compare.model.data import Run, Table, TableRow


def table(*params: dict[str, str], over_seeds: bool = False) -> Table:
    rows = [
        TableRow(Run(f"r{at}", f"r{at}", "gsm8k", "1", "", dict(it), {}, over_seeds=over_seeds), {})
        for at, it in enumerate(params)
    ]
    return Table("gsm8k", [], rows)


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ([{"lora.path": "out/adapter-seed1"}, {"lora.path": "out/adapter-seed2"}], ["lora.path"]),
        ([{"model.name": "a/b_seed_3"}, {"model.name": "a/b_seed_4"}, {"model.name": "c"}], ["model.name"]),
        ([{"notes.training_seed": "1"}, {"notes.training_seed": "2"}], ["notes.training_seed"]),
        ([{"lora.path": "a-seed1"}, {"lora.path": "b-seed2"}], []),
        ([{"lora.path": "a-seed1"}, {"lora.path": "a-seed1"}], []),
        ([{"lora.path": "linseed1"}, {"lora.path": "linseed2"}], []),
        ([{"seed": "1"}, {"seed": "2"}], []),
        ([{"lora.path": "a-seed1"}, {}], []),
    ],
)
def test_a_training_seed_is_in_names_or_in_a_declared_key(
    values: list[dict[str, str]], keys: list[str]
) -> None:
    made = table(*values)
    assert find_training_seed_keys(made) == keys
    said = format_training_seed_warning(made)
    named = keys[0].removesuffix(".name") if keys else ""
    assert said.startswith(
        f"the runs differ in a training seed ({named}), so findings apply only to " if keys else ""
    )
    assert bool(said) is bool(keys)


def test_seeds_of_sampling_say_nothing_of_other_training_runs() -> None:
    trained = {"lora.path": "one"}, {"lora.path": "other"}
    assert "other training runs" in format_training_seed_warning(table(*trained, over_seeds=True))
    assert "(lora.path)" in format_training_seed_warning(table(*trained, over_seeds=True))
    assert format_training_seed_warning(table(*trained)) == ""
    assert (
        format_training_seed_warning(table({"lora.path": "one"}, {"lora.path": "one"}, over_seeds=True)) == ""
    )
