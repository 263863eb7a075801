"""Tables over several tasks: accuracy beside likelihood, and profiles, where a server answers one
of the jobs."""

from __future__ import annotations

import pytest

from runner_compare.model.data import Run, Table, TableRow
from runner_compare.render.across_tasks import build_accuracy_vs_likelihood_columns


def row(task: str, quantization: str, split: str, metrics: dict[str, float]) -> TableRow:
    params = {"quantization.name": quantization, "task.data": "embedded", "task.split": split}
    run = Run(
        f"{task}-{quantization}-{split}", f"{task}-{quantization}-{split}", task, "1", "", params, metrics
    )
    return TableRow(run, {"quantization.name": quantization, "task.split": split})


@pytest.mark.parametrize("likely_splits", [("test", "hard"), ("train",)])
def test_an_accuracy_stands_beside_the_likelihood_of_the_same_data(likely_splits: tuple[str, ...]) -> None:
    """If there is none of the same data, it stands beside that of other data."""
    formats, keys = ("none", "nf4"), ["quantization.name", "task.split"]
    verdicts = {"n": 10.0, "correct": 5.0, "accuracy": 0.5}
    scored = [row("gsm8k", name, split, verdicts) for name in formats for split in ("test", "hard")]
    nats = {"log_likelihood_nats_per_token": -0.5}
    likely = [row("likelihood", name, split, nats) for name in formats for split in likely_splits]
    columns = build_accuracy_vs_likelihood_columns(
        [Table("gsm8k", keys, scored), Table("likelihood", keys, likely)]
    )
    assert [len(column.cells) for column in columns] == [4] * len(columns)
    assert columns[1].cells == ["test", "hard"] * 2
