from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from raising import raises

from runner.config.wording import PromptStyle
from runner.datasets.items import Item
from runner.datasets.question_prompts import (
    build_question_prompt,
    get_few_shot_stop_strings,
    load_few_shot_examples,
    make_lm_eval_difference_notes,
)
from runner.datasets.questions import load_questions
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.sessions.base import Message, Prompt
from runner_engine.settings.generation import GenerationConfig

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
ITEM, SHOT = Item("Q?", "A #### 1", "1"), Item("S?", "B #### 2", "2")


def prompts(task: Gsm8kConfig) -> list[Prompt]:
    items = load_questions(task)
    return [
        build_question_prompt(task, item, shots)
        for item, shots in zip(items, load_few_shot_examples(task, items)[0], strict=True)
    ]


def test_prompts() -> None:
    text = build_question_prompt(Gsm8kConfig(prompt=PromptStyle.text, shots=1), ITEM, [SHOT])
    assert text == "Question: S?\nAnswer: B #### 2\n\nQuestion: Q?\nAnswer:"
    chat = build_question_prompt(Gsm8kConfig(system="Be brief.", shots=1, instruction="Go."), ITEM, [SHOT])
    assert chat == (
        Message("system", "Be brief."),
        Message("user", "S?\n\nGo."),
        Message("assistant", "B #### 2"),
        Message("user", "Q?\n\nGo."),
    )
    assert build_question_prompt(Gsm8kConfig(instruction=""), ITEM, []) == (Message("user", "Q?"),)
    assert get_few_shot_stop_strings(Gsm8kConfig()) == ()
    assert get_few_shot_stop_strings(Gsm8kConfig(prompt=PromptStyle.text)) == ("\n\nQuestion:", "\nQuestion:")


def test_an_own_template_puts_questions_and_worked_examples() -> None:
    task = Gsm8kConfig(
        prompt=PromptStyle.text, template="Q: {question}\n{instruction} \\boxed{}\nA:", instruction="Go."
    )
    odd = Item("Is {instruction} text?", "#### 1", "1")
    assert build_question_prompt(task, odd, [SHOT]) == (
        "Q: S?\nGo. \\boxed{}\nA: B #### 2\n\nQ: Is {instruction} text?\nGo. \\boxed{}\nA:"
    )
    assert get_few_shot_stop_strings(task) == ("\n\nQ:", "\nQ:")
    chat = Gsm8kConfig(template="{question} In {n} words.")
    assert build_question_prompt(chat, ITEM, [SHOT])[0] == Message("user", "S? In {n} words.")
    newline = Gsm8kConfig(prompt=PromptStyle.text, template="{question}\n")
    assert build_question_prompt(newline, ITEM, [SHOT]) == "S?\nB #### 2\n\nQ?\n"
    assert get_few_shot_stop_strings(newline) == ()  # nothing says how a next question would begin


def few_rows(folder: Path) -> Gsm8kConfig:
    for split, count in (("train", 12), ("test", 4)):
        rows = [{"question": f"{split} {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Gsm8kConfig(data=str(folder), prompt=PromptStyle.lm_eval_5shot, limit=None)


def test_the_prompts_of_lm_eval(tmp_path: Path) -> None:
    """The expected draws and the hash are what lm-eval 0.4.13 made of the same files."""
    task = few_rows(tmp_path)
    asked = prompts(task)
    drawn = [[7, 1, 0, 10, 9], [10, 1, 11, 5, 3], [0, 11, 10, 5, 7], [9, 7, 2, 1, 11]]
    for place, numbers in enumerate(drawn):
        shots = "".join(f"Question: train {i}?\nAnswer: It is {i}.\n#### {i}\n\n" for i in numbers)
        assert asked[place] == f"{shots}Question: test {place}?\nAnswer:"
    digest = "143215f82da2eb2e8cb31296fd3ae2880cae65bae8efe5d2f7b57c206ed490d0"
    assert hashlib.sha256("\0".join(map(str, asked)).encode()).hexdigest() == digest
    assert get_few_shot_stop_strings(task) == ("Question:", "</s>", "<|im_end|>")
    assert make_lm_eval_difference_notes(task, GenerationConfig()) == []
    longer = GenerationConfig(max_new_tokens=512, temperature=0.2)
    assert make_lm_eval_difference_notes(task, longer) == [
        note("unlike_lm_eval", "warning", key="generation.temperature", value=0.2, usual=0.0),
        note("unlike_lm_eval", "warning", key="generation.max_new_tokens", value=512, usual=256),
    ]
    assert make_lm_eval_difference_notes(Gsm8kConfig(), longer) == []
    # a question's examples are its own, wherever the job begins and however it is shuffled
    task.offset, task.limit = 2, 1
    assert prompts(task) == asked[2:3]
    task.offset, task.limit, task.shuffle_seed = 0, None, 1
    mixed = prompts(task)
    assert mixed != asked
    assert sorted(map(str, mixed)) == sorted(map(str, asked))


@pytest.mark.thorough
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real GSM8K is not at {REAL}")
def test_the_1319_real_prompts_are_those_of_lm_eval() -> None:
    asked = prompts(Gsm8kConfig(data=str(REAL), prompt=PromptStyle.lm_eval_5shot, limit=None))
    digest = "84119a05b6c77e92415182c7963444e153dd2df04e05e238744f26b105c0a8b6"  # of lm-eval 0.4.13's own
    assert hashlib.sha256("\0".join(map(str, asked)).encode()).hexdigest() == digest


def test_the_fingerprint_of_worked_examples_says_what_they_are_drawn_from(tmp_path: Path) -> None:
    def fingerprint(**keys: object) -> str:
        task = Gsm8kConfig(data=str(tmp_path), **keys)  # type: ignore[arg-type]
        return load_few_shot_examples(task, load_questions(task))[1]

    few_rows(tmp_path)
    assert fingerprint(shots=1, limit=2) == fingerprint(shots=1, limit=3) != fingerprint(shots=2, limit=2)
    theirs = {"prompt": PromptStyle.lm_eval_5shot}
    first = fingerprint(limit=2, **theirs)
    assert first == fingerprint(limit=3, **theirs)  # a longer job goes on from a shorter one
    assert (
        len({first, fingerprint(limit=2, offset=1, **theirs), fingerprint(limit=4, shuffle_seed=1, **theirs)})
        == 3
    )
    with (tmp_path / "train.jsonl").open("a") as train:
        train.write('{"question": "one more", "answer": 1}\n')
    assert fingerprint(limit=2, **theirs) != first


def test_what_lm_eval_would_not_send_is_refused(tmp_path: Path) -> None:
    task = few_rows(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"question": "?", "answer": "#### 1"}\n')
    with raises(ConfigError, "too_large", "task.prompt"):
        prompts(task)
    task.split = "train"
    with raises(ConfigError, "conflict", "task.split=train with task.prompt=lm_eval_5shot"):
        prompts(task)
