"""top_k.jsonl: lines are read as they were written, an incomplete one is written again, a changed
one is rejected."""

from __future__ import annotations

from pathlib import Path

import pytest
from raising import raises

from runner.records.top_k import TOP_K, TopK, TopKFile, read_top_k_file
from runner_base.errors import RunRecordError

TOP = TopK.from_engine_tokens([[(7, -0.25), (900_000, -2.5)], [(3, -0.5), (4, -1.5)], [(1, 0.0), (2, -30.0)]])


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = TopKFile(tmp_path)
    file.append_sample(4, TOP)
    file.close()
    lines = read_top_k_file(tmp_path / TOP_K)
    assert lines == {4: TOP}
    assert [list(ids) for ids in lines[4].ids_by_position()] == [[7, 900_000], [3, 4], [1, 2]]
    assert (lines[4].num_positions, lines[4].logprobs.tolist()) == (3, [-0.25, -2.5, -0.5, -1.5, 0.0, -30.0])


def test_drawn_tokens_stand_behind_the_most_probable_ones(tmp_path: Path) -> None:
    drawn = TopK.from_engine_tokens(
        [[(7, -0.25)], [(3, -0.5)]], [[(9, -4.0), (9, -4.0)], [(8, -6.5), (1, -7.0)]]
    )
    file = TopKFile(tmp_path)
    file.append_sample(0, drawn)
    file.append_sample(4, TOP)  # as earlier versions wrote it
    file.close()
    lines = read_top_k_file(tmp_path / TOP_K)
    assert lines == {0: drawn, 4: TOP}
    assert [list(ids) for ids in lines[0].ids_by_position()] == [[7, 9, 9], [3, 8, 1]]
    assert lines[0].drawn_logprobs.tolist() == [-4.0, -4.0, -6.5, -7.0]
    with pytest.raises(ValueError, match="expected 3 sampled tokens .* found 4 ids"):
        TopK(1, drawn.ids, drawn.logprobs, 3, drawn.drawn_ids, drawn.drawn_logprobs)


def test_an_incomplete_line_is_cut_off_and_a_changed_one_named(tmp_path: Path) -> None:
    file = TopKFile(tmp_path)
    for index in (0, 1):
        file.append_sample(index, TOP)
    file.close()
    path = tmp_path / TOP_K
    path.write_bytes(path.read_bytes()[:-20])
    again = TopKFile(tmp_path)
    assert set(again.widths) == {0}
    again.append_sample(1, TOP)
    again.close()
    assert set(read_top_k_file(path)) == {0, 1}
    path.write_text(path.read_text().replace('"index": 1', '"index": 2'))
    with raises(RunRecordError, "damaged"):
        read_top_k_file(path)
