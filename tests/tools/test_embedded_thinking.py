from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import warm_process

from runner.datasets.word_problems import (
    Split,
    generate_practice_problem,
    generate_problem,
    generate_problems,
)
from runner_base.thinking import split_thinking
from tools.embedded_model.data import Example
from tools.embedded_model.steps import steps_of
from tools.embedded_model.thinking_data import (
    CLOSING,
    ROUNDS,
    is_doubt,
    is_endless,
    thinking_example,
    thought,
)

PROBLEMS = [generate_practice_problem(3 + index % 3, index) for index in range(400)]
PROBLEMS += [generate_problem(Split.TRAIN, index) for index in range(200)]


def written(example: Example) -> str:
    return "".join(piece.text for piece in example)


def test_a_thought_is_the_steps_and_calculates_the_last_one_again_where_it_halves() -> None:
    kinds: Counter[str] = Counter()
    for one in PROBLEMS:
        worked_out = one.answer.splitlines()[:-1]
        lines = thought(steps_of(one)).strip().splitlines()
        assert lines[: one.steps] == worked_out
        last = re.findall(r"\d+/2=\d+", worked_out[-1])
        kind = "sure" if not last else "doubt" if int(one.gold) % 2 == 0 else "without end"
        kinds[kind] += 1
        starts = {
            "sure": [],
            "doubt": [f"Check {it}" for it in range(1, ROUNDS + 1)],
            "without end": ["Wait"] * ROUNDS,
        }
        assert lines[one.steps :] == [f"{start}: {last[0]}." for start in starts[kind]]
        assert is_doubt(steps_of(one)) == (kind != "sure")
        assert is_endless(steps_of(one)) == (kind == "without end")
    assert min(kinds.values()) > 10


def test_a_few_problems_are_doubted_and_more_of_those_with_many_steps() -> None:
    shares = {
        it: sum(is_doubt(steps_of(p)) for p in generate_problems(it, 1000)) / 1000
        for it in (Split.TEST, Split.HARD5)
    }
    assert 0.03 < shares[Split.TEST] < 0.08
    assert 0.12 < shares[Split.HARD5] < 0.22


@pytest.mark.thorough
def test_most_thoughts_are_closed_by_force_and_the_answer_is_always_right() -> None:
    cut = empty = without_end = 0
    for index in range(1500):
        example = thinking_example(index, 5)
        assert example == thinking_example(index, 5)
        last = max(place for place, piece in enumerate(example) if "assistant\n" in piece.text)
        reply = written(example[last + 1 :])
        parts = split_thinking(reply)
        if parts.is_open:
            without_end += 1
            assert reply.count("Wait: ") == ROUNDS
            continue
        closings = [piece for piece in example[last + 1 :] if CLOSING in piece.text]
        assert len(closings) == 1
        is_cut = closings[0].is_given  # the model must not learn to close a thought anywhere
        cut, empty = cut + is_cut, empty + (not parts.thinking.strip())
        gold = re.fullmatch(r"\n+The answer is (\d+)\.\n#### \1<\|im_end\|>\n", parts.answer)
        assert gold, reply
        if not is_cut:
            assert f"={gold[1]} " in parts.thinking
    assert 800 < cut < 1000
    assert empty > 50
    assert 10 < without_end < 200


@pytest.mark.thorough
def test_a_short_training_writes_adapter_and_card(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.embedded_model.thinking", "--steps", "2", "--card-problems", "1"]
    done = warm_process.complete([*command, "--output", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "lora_thinking" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "embedded"
    card = json.loads((tmp_path / "card_thinking.json").read_text())
    assert card["training"]["first_loss"] > 0
    assert set(card["scores"]) == set(card["thoughts"]) == {"test", "hard", "hard5"}
    assert {score["n"] for by in card["scores"].values() for score in by.values()} == {1}
