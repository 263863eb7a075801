"""The table of families holds: each goes its way, and its tokens are generate's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import families

pytestmark = pytest.mark.slow

ROWS = families.rows(families.PAGE.read_text())
FEW = ("llama", "mixtral", "gemma3n_text", "falcon_h1", "mamba", "rwkv", "llama4_text", "xlnet", "xmod")


@pytest.mark.thorough
@pytest.mark.parametrize("family", FEW)
def test_a_few_families_go_the_ways_of_the_table(family: str, tmp_path: Path) -> None:
    assert families.look(family, tmp_path).way == ROWS[family]


@pytest.mark.thorough
def test_all_families_go_the_ways_of_the_table() -> None:
    found = {one.family: one.way for one in families.sweep(families.families()) if one.way}
    assert found == ROWS


def test_the_table_knows_no_wrong_answers_and_many_families() -> None:
    assert "wrong" not in ROWS.values()
    assert len(ROWS) > 150
