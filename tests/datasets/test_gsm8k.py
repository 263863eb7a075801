from __future__ import annotations

import json
from pathlib import Path

import pytest
from raising import raises

from runner.config.extractors import Extractor
from runner.datasets.items import Item
from runner.datasets.questions import load_questions, load_worked_examples
from runner.scorers import extract_canonical_answer, numbers
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import Code, ConfigError, DataError


def questions(task: Gsm8kConfig) -> list[Item]:
    return load_questions(task)


def examples(task: Gsm8kConfig) -> list[Item]:
    return load_worked_examples(task)


def write_jsonl(path: Path, count: int, answer: str = "1+1=2\n#### {}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"question": f"{path.stem} {i}?", "answer": answer.format(f"{i},000")} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_local_jsonl_file_and_folder(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "data" / "test.jsonl", 5)
    write_jsonl(tmp_path / "data" / "train.jsonl", 3)
    items = questions(Gsm8kConfig(data=str(file), limit=None))
    assert [item.gold for item in items] == ["0", "1000", "2000", "3000", "4000"]
    folder = Gsm8kConfig(data=str(file.parent), limit=2, shots=3)
    assert len(questions(folder)) == 2
    assert [shot.question for shot in examples(folder)] == ["train 0?", "train 1?", "train 2?"]


def test_shots_come_from_train_of_the_embedded_data() -> None:
    shots = examples(Gsm8kConfig(shots=3))
    asked = {item.question for item in questions(Gsm8kConfig(limit=500))}
    assert len(shots) == 3
    assert not asked & {shot.question for shot in shots}


def of(items: list[Item]) -> list[str]:
    return [item.question for item in items]


def test_shuffle_then_offset_then_limit(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "test.jsonl", 30))
    for data, whole in ((file, questions(Gsm8kConfig(data=file, limit=None))), ("embedded", [])):
        mixed = questions(Gsm8kConfig(data=data, shuffle_seed=3, limit=30))
        assert of(mixed) != of(questions(Gsm8kConfig(data=data, limit=30)))
        assert mixed == questions(Gsm8kConfig(data=data, shuffle_seed=3, limit=30))
        assert of(mixed) != of(questions(Gsm8kConfig(data=data, shuffle_seed=4, limit=30)))
        assert mixed[5:9] == questions(Gsm8kConfig(data=data, shuffle_seed=3, offset=5, limit=4))
        assert len(set(of(mixed))) == 30
        # all of them are there, and know their place
        assert all(whole[item.position] == item for item in mixed if whole)
    assert of(questions(Gsm8kConfig(data=file, offset=28, limit=None))) == ["test 28?", "test 29?"]
    assert questions(Gsm8kConfig(offset=7, limit=2)) == questions(Gsm8kConfig(limit=9))[7:]


def test_what_lies_behind_the_limit_is_not_read(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "test.jsonl", 6)
    file.write_text(file.read_text() + "no JSON\n")
    assert len(questions(Gsm8kConfig(data=str(file), offset=2, limit=4))) == 4
    with raises(DataError, "damaged", f"{file}, line 7"):
        questions(Gsm8kConfig(data=str(file), offset=2, limit=5))


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({"data": "./nope.jsonl"}, "not_found", "task.data"),
        ({"data": "nope"}, "not_found", "task.data"),
        ({"split": "tset"}, "unknown_choice", "task.split"),
        ({"limit": None}, "missing", "task.limit"),
        ({"shuffle_seed": 1, "offset": 8640, "limit": 1}, "too_large", "task.shuffle_seed"),
        ({"split": "train", "shots": 2}, "conflict", "task.split=train with task.shots=2"),
    ],
)
def test_bad_data_keys(keys: dict[str, object], code: Code, key: str) -> None:
    task = Gsm8kConfig(**keys)  # type: ignore[arg-type]
    with raises(ConfigError, code, key):
        (questions(task), examples(task))


@pytest.mark.parametrize(
    "line",
    [
        '{"question": "Q?"',
        '{"question": "Q?"}',
        '{"question": "Q?", "answer": "twelve"}',
        '{"question": null, "answer": "#### 1"}',
        '{"question": "Q?", "answer": []}',
        "[1]",
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"question": "Q?", "answer": "#### 1"}\n' + line + "\n")
    with raises(DataError, "damaged", f"{file}, line 2"):
        questions(Gsm8kConfig(data=str(file)))


def test_missing_split_and_missing_shots(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "test.jsonl", 5)
    with raises(ConfigError, "unknown_choice", "task.split"):
        questions(Gsm8kConfig(data=str(tmp_path), split="train"))
    with raises(ConfigError, "missing"):
        examples(Gsm8kConfig(data=str(file), shots=2))
    few = write_jsonl(tmp_path / "few.jsonl", 1)
    with raises(ConfigError, "too_large", "task.shots"):
        examples(Gsm8kConfig(data=str(file), shots=2, shots_data=str(few)))
    with raises(ConfigError, "too_large", "task.offset"):
        questions(Gsm8kConfig(data=str(file), offset=5))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with raises(ConfigError, "empty", "task.data"):
        questions(Gsm8kConfig(data=str(empty)))


def test_a_subset_is_a_folder_and_examples_come_from_a_split_of_their_own(tmp_path: Path) -> None:
    for subset in ("easy", "hard"):
        write_jsonl(tmp_path / subset / "test.jsonl", 2)
        write_jsonl(tmp_path / subset / "dev.jsonl", 3, answer=f"{subset} #### {{}}")
    task = Gsm8kConfig(data=str(tmp_path), subset="hard", shots=2, shots_split="dev")
    assert [shot.question for shot in examples(task)] == ["dev 0?", "dev 1?"]
    assert examples(task)[1].answer == "hard #### 1,000"
    with raises(ConfigError, "unknown_choice", "task.subset"):
        questions(Gsm8kConfig(data=str(tmp_path), subset="hrad"))
    with raises(ConfigError, "unsupported", "task.subset"):
        questions(Gsm8kConfig(subset="hard"))
    with raises(ConfigError, "conflict", "task.split=dev with task.shots=2"):
        examples(Gsm8kConfig(data=str(tmp_path), subset="hard", split="dev", shots=2, shots_split="dev"))


def test_real_gsm8k_when_it_is_at_hand() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
    if not folder.is_dir():
        pytest.skip("GSM8K itself is not beside this checkout")
    items = questions(Gsm8kConfig(data=str(folder), limit=None))
    assert len(items) == 1319
    assert items[0].gold == "18"
    shots = examples(Gsm8kConfig(data=str(folder), shots=5))
    assert all(
        extract_canonical_answer(shot.answer, numbers, Extractor.strict) == shot.gold for shot in shots
    )
