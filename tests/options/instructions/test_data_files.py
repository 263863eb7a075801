"""Files in IFEval's format, and what is wrong with some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from raising import raises

from runner.config.root import RunnerConfig
from runner.options.instructions import task as instructions
from runner.options.instructions.data_files import iter_ifeval_prompts
from runner.options.instructions.keys import InstructionsConfig
from runner.options.instructions.kinds import Instruction
from runner_base.errors import ConfigError, DataError

Make = Callable[..., RunnerConfig]
# in the Hub's tables, each object has the arguments of all kinds
UNUSED = {"num_words": None, "relation": None, "keywords": None}
ROWS: list[dict[str, Any]] = [
    {
        "key": 1000,
        "prompt": "Write about tea in at least 30 words. Use no commas.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{**UNUSED}, {**UNUSED, "num_words": 30, "relation": "at least"}],
    },
    {
        "key": 1001,
        "prompt": "Write about milk with the words cow and cup.",
        "instruction_id_list": ["keywords:existence"],
        "kwargs": [{**UNUSED, "keywords": ["cow", "cup"]}],
    },
    {
        "key": 1002,
        "prompt": "Antworte auf Deutsch.",
        "instruction_id_list": ["language:response_language"],
        "kwargs": [{"language": "de"}],
    },
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def job(make_config: Make) -> Callable[..., RunnerConfig]:
    return lambda **keys: make_config(task=InstructionsConfig(**keys))


def test_a_file_of_lines_is_read(tmp_path: Path) -> None:
    first, second, _ = iter_ifeval_prompts(write(tmp_path / "a.jsonl", ROWS), "train")
    assert (first.key, first.prompt) == ("1000", ROWS[0]["prompt"])
    assert first.instructions == (
        Instruction("punctuation:no_comma", {}),
        Instruction("length_constraints:number_words", {"num_words": 30, "relation": "at least"}),
    )
    assert second.instructions == (Instruction("keywords:existence", {"keywords": ("cow", "cup")}),)
    assert (
        first.gold
        == "punctuation:no_comma | length_constraints:number_words(num_words=30; relation=at least)"
    )


def test_a_table_and_a_cached_data_set_of_the_hub_are_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [*iter_ifeval_prompts(write(tmp_path / "a.jsonl", ROWS), "train")]
    table = pa.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "train.parquet")
    assert [*iter_ifeval_prompts(str(tmp_path / "train.parquet"), "train")] == lines
    snapshot = tmp_path / "hub" / "datasets--google--IFEval" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (refs := snapshot.parents[1] / "refs").mkdir()
    (refs / "main").write_text("0" * 40)
    parquet.write_table(table, snapshot / "train.parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    assert [*iter_ifeval_prompts("google/IFEval", "train")] == lines


def change(number: int, **values: Any) -> list[dict[str, Any]]:
    return [row | values if place == number else row for place, row in enumerate(ROWS)]


def without(number: int, key: str) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if place != number or name != key}
        for place, row in enumerate(ROWS)
    ]


WORDS = ["length_constraints:number_words"]
DAMAGED = [
    (without(1, "key"), "the key key is missing"),
    (without(1, "kwargs"), "the key kwargs is missing"),
    (change(1, prompt=" "), "prompt must be a text"),
    (change(1, instruction_id_list=["keywords:existance"]), "no instruction 'keywords:existance'. Did you mean keywords:existence"),
    (change(1, instruction_id_list=[]), "instruction_id_list must be a list"),
    (change(1, kwargs=[]), "kwargs must be a list of 1 objects"),
    (change(1, kwargs=["x"]), "kwargs of keywords:existence must be an object"),
    (change(1, kwargs=[{}]), "keywords:existence needs the argument keywords"),
    (change(1, kwargs=[{"keywords": "cow"}]), "keywords='cow' must be a list of words"),
    (change(1, kwargs=[{"keywords": ["cow"], "words": 3}]), "keywords:existence has no argument words"),
    (change(1, instruction_id_list=WORDS, kwargs=[{"num_words": "3", "relation": "at least"}]), "num_words='3' must be a whole number"),
    (change(1, instruction_id_list=WORDS, kwargs=[{"num_words": 2.5, "relation": "at least"}]), "num_words=2.5 must be a whole number"),
    (change(1, instruction_id_list=WORDS, kwargs=[{"num_words": 3, "relation": "at most"}]), "relation='at most' must be one of: less than, at least"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "reason"), DAMAGED)
def test_a_damaged_record_is_one_message_with_file_and_line(
    tmp_path: Path, rows: list[dict[str, Any]], reason: str
) -> None:
    file = write(tmp_path / "a.jsonl", rows)
    with raises(DataError, "damaged", f"{file}, line 2") as caught:
        list(iter_ifeval_prompts(file, "train"))
    assert reason in str(caught.value)


def test_lines_that_are_no_objects_are_one_message(tmp_path: Path) -> None:
    for text in ("[1, 2]\n", "not JSON\n", '{"key": 1\n'):
        (tmp_path / "a.jsonl").write_text(text)
        with raises(DataError, "damaged", f"{tmp_path}/a.jsonl, line 1"):
            list(iter_ifeval_prompts(str(tmp_path / "a.jsonl"), "train"))


def test_a_missing_file_and_an_empty_one_are_one_message(job: Make, tmp_path: Path) -> None:
    with raises(DataError, "not_found", "task.data"):
        instructions.prepare(job(data="./nowhere.jsonl"))
    with raises(ConfigError, "empty", "task.data"):
        instructions.prepare(job(data=write(tmp_path / "a.jsonl", [])))


def test_prompts_are_limited_and_left_out(job: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ROWS)
    inputs = instructions.prepare(job(data=file, limit=1))
    assert [prompt.key for prompt in inputs.prompts] == ["1000"]
    inputs = instructions.prepare(
        job(data=file, exclude_kinds=["punctuation:no_comma", "language:response_language"], limit=None)
    )
    assert ([prompt.key for prompt in inputs.prompts], inputs.num_excluded) == (["1001"], 2)
    with raises(ConfigError, "unknown_choice", "task.exclude_kinds"):
        instructions.prepare(job(exclude_kinds=["no_comma"]))


def test_only_prompts_that_need_a_language_need_the_package(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.options.instructions import languages

    file = write(tmp_path / "a.jsonl", ROWS)
    monkeypatch.setattr(languages, "find_spec", lambda name: None)
    with raises(ConfigError, "needs_package"):
        instructions.prepare(job(data=file))
    assert len(instructions.prepare(job(data=file, limit=2)).prompts) == 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"num_instructions": []}, "task.num_instructions"),
    ({"num_instructions": [4]}, "task.num_instructions"),
    ({"num_instructions": [1, 1]}, "task.num_instructions"),
    ({"limit": 0}, "task.limit"),
    ({"data_seed": -1}, "task.data_seed"),
    ({"data": " "}, "task.data"),
]


@pytest.mark.parametrize(("keys", "key"), WRONG)
def test_a_wrong_value_names_its_key(keys: dict[str, Any], key: str) -> None:
    with raises(ConfigError, "bad_value", key):
        InstructionsConfig(**keys)


def test_generated_prompts_need_a_limit() -> None:
    with raises(ConfigError, "missing", "task.limit"):
        InstructionsConfig(limit=None)
