"""A log of a hundred thousand samples is read in the time that parsing takes, and in the memory of
what is kept."""

from __future__ import annotations

import json
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from large_archive import large_archive
from other_logs import changed_log, unequal_questions

from runner_base import progress
from runner_compare.readers import inspect_log, inspect_samples


def seconds(path: Path) -> float:
    """Return the processor time of reading a log, which other processes do not lengthen much."""
    begun = time.process_time()
    inspect_log.read_tool_file(path, b"")
    return time.process_time() - begun


@pytest.mark.thorough
def test_time_grows_with_the_samples_and_not_with_their_square(tmp_path: Path) -> None:
    few, many = (large_archive(tmp_path / f"{count}.eval", count) for count in (300, 3000))
    seconds(few)
    assert seconds(many) < 25 * min(seconds(few) for _ in range(3))


@pytest.mark.thorough
def test_only_what_is_compared_is_kept(tmp_path: Path) -> None:
    samples, size = 60, 300_000
    path = large_archive(tmp_path / "a.eval", samples, extra_bytes=size)
    inspect_log.read_tool_file(path, b"")
    tracemalloc.start()
    try:
        tool_file = inspect_log.read_tool_file(path, b"")
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(tool_file.runs[0].samples) == samples
    assert kept < samples * 3000
    assert peak < 10 * size < samples * size  # one sample at a time


def test_texts_are_read_again_where_they_are_shown(run: Any, tmp_path: Path) -> None:
    first, second = (large_archive(tmp_path / f"{seed}.eval", 60, seed=seed) for seed in (1, 2))
    code, out, err = run(
        first, second, "--flips", f"output_dir={first}", f"output_dir={second}", "--format", "json"
    )
    assert code == 0, err
    (flips,) = json.loads(out)["tables"][0]["flips"]
    assert len(flips["questions"]) == flips["won"] + flips["lost"] > 5
    for flip in flips["questions"]:
        assert f"Case {flip['index']}." in flip["question"]
        assert all("####" in flip[side]["text"] and flip[side]["answer"] for side in ("ours", "theirs"))


def nested(path: Path, key: str, items: int) -> Path:
    """Write a log of which a sample has a field of very many empty lists, which take much more
    memory than room."""
    changed_log(path, lambda members: None)
    lists = "[" + ",".join(["[]"] * items) + "]"
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in contents if name.startswith("samples/"))
    contents[name] = contents[name].rstrip()[:-1] + f', "{key}": {lists}}}'.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in contents.items():
            archive.writestr(member, content)
    return path


@pytest.mark.thorough
@pytest.mark.parametrize("key", ["events", "metadata", "input"])
def test_a_small_archive_does_not_fill_the_memory(rejected: Any, tmp_path: Path, key: str) -> None:
    items = 8_000_000
    path = nested(tmp_path / "bomb.eval", key, items)
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        if key == "events":  # which are not read at all
            assert inspect_log.read_tool_file(path, b"").runs
        else:
            assert f"{key} has 22 MiB, which exceeds the size limit" in rejected(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 3 * items  # some copies of the text; the lists take 64 bytes each


def test_a_question_of_another_sample_is_another_question(tables: Any, tmp_path: Path) -> None:
    """Only hashes of questions are kept, and they still tell questions apart that begin alike."""
    first = large_archive(tmp_path / "a.eval", 60)

    def change(members: dict[str, dict[str, Any]]) -> None:
        member = members["samples/sample-7_epoch_1.json"]
        member["input"] += "!"

    with zipfile.ZipFile(tmp_path / "b.eval", "w") as archive:
        members = {name: json.loads(content) for name, content in contents_of(first).items()}
        change(members)
        for name, content in members.items():
            archive.writestr(name, json.dumps(content))
    (table,) = tables(first, tmp_path / "b.eval")
    assert table["rows"][1]["note"] == unequal_questions(60, 60, 59)


def contents_of(path: Path) -> dict[str, bytes]:
    from runner_compare.readers.archive import Archive

    with Archive(path) as archive:
        return {name: archive.read_member(name) for name in archive.members}


def test_a_bar_appears_only_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[progress.ProgressState] = []
    progress.set_progress_sink(seen.append)
    try:
        assert list(progress.iterate_with_progress([1, 2, 3], "reading", "files")) == [1, 2, 3]
        assert seen == []
        monkeypatch.setattr(progress, "WATCHED_AFTER_S", 0.0)
        monkeypatch.setattr(progress, "REPORT_EVERY_S", 0.0)
        assert list(progress.iterate_with_progress([1, 2, 3], "reading", "files")) == [1, 2, 3]
        assert (seen[0].what, seen[0].total, seen[-1].done) == ("reading", 3, 3.0)
    finally:
        progress.set_progress_sink(None)


def test_a_long_gold_answer_is_known_by_its_hash() -> None:
    one, other = (inspect_samples._shorten_text("x" * 10_000 + end) for end in "ab")
    assert one != other
    assert len(one) < 300
