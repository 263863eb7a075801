"""One database for all tests of the comparison, and the command run on it."""

from __future__ import annotations

import pytest
from compared_stores import rows, show, store
from stores import INT8, NF4, NONE, Store, marks

__all__ = ["rows", "show", "store"]


@pytest.fixture(scope="session")
def grid(store: Store) -> Store:
    """Three quantizations × two splits: nf4 much worse on test, everything else nearly equal."""
    for split in ("test", "train"):
        for quantization, test_marks, train_marks in (
            (NONE, marks(180, 200), marks(190, 200)),
            (INT8, marks(181, 200, 3), marks(190, 200)),
            (NF4, marks(150, 200), marks(189, 200)),
        ):
            name = f"{quantization['quantization.name']}-{split}"
            solved = test_marks if split == "test" else train_marks
            store.job("grid", name, {**quantization, "task.split": split}, solved)
    store.job("grid", "dead", {**NF4, "seed": "7"}, marks(1, 200), status="FAILED")
    store.job("grid", "killed", {**NF4, "seed": "8"}, marks(1, 200), status="KILLED")
    return store
