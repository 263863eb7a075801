from __future__ import annotations

import json
from pathlib import Path

from raising import raises

from runner.records.jsonl_files import AppendOnlyFile, read_lines
from runner_base.errors import OutputError, RunRecordError


def test_an_incomplete_last_line_is_cut_off_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert list(read_lines(path, json.loads, "number")) == []
    file = AppendOnlyFile(path)
    assert not path.exists(), "the first line creates the file"
    file.append_line("1")
    assert path.read_text() == "1\n", "the line is in the file before it is closed"
    file.append_line('"zwei\u2028"')
    file.close()
    path.write_bytes(path.read_bytes() + b"[3, ")
    assert list(read_lines(path, json.loads, "number")) == [(1, 1), (2, "zwei\u2028")]
    assert path.read_bytes().endswith(b"[3, "), "reading changes nothing"
    assert len(list(read_lines(path, json.loads, "number", repair=True))) == 2
    file.append_line("4")
    file.close()
    assert [line for _, line in read_lines(path, json.loads, "number")] == [1, "zwei\u2028", 4]
    path.write_text("1\nx\n3\n")
    with raises(RunRecordError, "damaged"):
        list(read_lines(path, json.loads, "number", repair=True))
    assert path.read_text() == "1\nx\n3\n"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with raises(OutputError, "refused"):
        AppendOnlyFile(tmp_path / "gone" / "lines.jsonl").append_line("1")
