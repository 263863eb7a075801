"""GSM8K as people have it: the hub's layout, single parquet files, save_to_disk, and the caches
without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from raising import raises

from runner.datasets.questions import load_questions, load_worked_examples
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError, DataError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
Start = Callable[..., Any]


def rows(name: str, count: int = 4) -> list[dict[str, str]]:
    return [{"question": f"{name} {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(count)]


def put(path: Path, values: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(values), path)
    return path


def asked(data: Path | str, split: str = "test", limit: int | None = None) -> list[str]:
    return [item.question for item in load_questions(Gsm8kConfig(data=str(data), split=split, limit=limit))]


def test_the_layout_of_the_hub(tmp_path: Path) -> None:
    for config in ("main", "socratic"):
        for split in ("test", "train"):
            put(tmp_path / config / f"{split}-00000-of-00001.parquet", rows(f"{config} {split}"))
    assert asked(tmp_path) == [f"main test {i}?" for i in range(4)]
    assert asked(tmp_path / "socratic", limit=2) == ["socratic test 0?", "socratic test 1?"]
    assert [item.gold for item in load_worked_examples(Gsm8kConfig(data=str(tmp_path), shots=2))] == [
        "0",
        "1",
    ]
    assert asked(tmp_path / "main" / "train-00000-of-00001.parquet", limit=1) == ["main train 0?"]
    with raises(ConfigError, "unknown_choice", "task.split"):
        asked(tmp_path, "tset")
    shutil.rmtree(tmp_path / "main")
    with raises(ConfigError, "unknown_choice", "task.split"):
        asked(tmp_path)


def test_several_files_of_one_split_are_all_read_or_none(tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path / "data" / f"test-0000{number}-of-00002.parquet", rows(f"part {number}"))
    assert len(asked(tmp_path)) == 8
    assert asked(tmp_path, limit=5)[-1] == "part 1 0?"
    (tmp_path / "data" / "test-00000-of-00002.parquet").unlink()
    with raises(DataError, "damaged", str(tmp_path / "data")):
        asked(tmp_path)


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    both = DatasetDict({split: Dataset.from_list(rows(split)) for split in ("test", "train")})
    both.save_to_disk(tmp_path / "both")
    both["test"].select([2, 0]).save_to_disk(tmp_path / "one")
    assert asked(tmp_path / "both", "train") == [f"train {i}?" for i in range(4)]
    assert asked(tmp_path / "one") == ["test 2?", "test 0?"]
    with raises(ConfigError, "unknown_choice", "task.split"):
        asked(tmp_path / "both", "valid")
    state = json.loads((tmp_path / "one" / "state.json").read_text())
    state["_data_files"][0]["filename"] = "../both/test/data-00000-of-00001.arrow"
    (tmp_path / "one" / "state.json").write_text(json.dumps(state))
    with raises(DataError, "damaged", str(tmp_path / "one" / "state.json")):
        asked(tmp_path / "one")


def test_bad_tables_are_refused_in_one_message(tmp_path: Path) -> None:
    torn = put(tmp_path / "torn.parquet", rows("x"))
    torn.write_bytes(torn.read_bytes()[:-20])
    with raises(DataError, "damaged", str(torn)):
        asked(torn)
    with raises(DataError, "damaged", str(tmp_path / "other.parquet")):
        asked(put(tmp_path / "other.parquet", [{"text": "hi"}]))
    with raises(DataError, "damaged", f"{tmp_path / 'plain.parquet'}, row 1"):
        asked(put(tmp_path / "plain.parquet", [{"question": "?", "answer": "seven"}]))
    named = tmp_path / "named.jsonl"
    shutil.copyfile(tmp_path / "plain.parquet", named)
    with raises(DataError, "damaged", str(named)):
        asked(named)


def fill_hub_cache(home: Path) -> None:
    """As `hf download openai/gsm8k --repo-type dataset` leaves it."""
    repo, commit = home / "hub" / "datasets--openai--gsm8k", "a" * 40
    put(repo / "snapshots" / commit / "main" / "test-00000-of-00001.parquet", rows("hub"))
    put(repo / "snapshots" / commit / "socratic" / "test-00000-of-00001.parquet", rows("socratic"))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)


def fill_datasets_cache(home: Path) -> None:
    """As `load_dataset` leaves it: the build of a local copy, under the name that the hub's would
    have."""
    from datasets import load_dataset

    source = put(home / "source" / "test.parquet", rows("built"))
    load_dataset("parquet", data_files={"test": str(source)}, cache_dir=str(home / "build"))
    (built,) = (home / "build" / "parquet").glob("*/*/*/parquet-test.arrow")
    target = home / "datasets" / "openai___gsm8k" / "main" / "0.0.0" / "abc"
    target.mkdir(parents=True)
    shutil.copyfile(built, target / "gsm8k-test.arrow")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("fill", [fill_hub_cache, fill_datasets_cache])
def test_a_filled_cache_does_without_a_network(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    fill(tmp_path / "hf")
    bare = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    # where nobody answers
    settings = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    arguments = ["model=stub", "task.data=openai/gsm8k", "task.limit=3", "tracking=none"]
    done = subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=tmp_path,
        env=bare | settings,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the cached copy is used") == 1
    assert "etry" not in done.stderr
    assert "3 questions" in done.stdout


def test_without_a_cache_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with raises(DataError, "unreachable", "task.data"):
        asked("openai/gsm8k", limit=1)


@pytest.mark.thorough
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real GSM8K is not at {REAL}")
def test_the_real_questions_are_the_same_from_lines_and_from_parquet(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (REAL / "test.jsonl").read_text().splitlines()]
    put(tmp_path / "main" / "test-00000-of-00001.parquet", lines)
    mine, real = (Gsm8kConfig(data=str(folder), limit=None) for folder in (tmp_path, REAL))
    assert load_questions(mine) == load_questions(real)
    assert len(asked(tmp_path)) == 1319
