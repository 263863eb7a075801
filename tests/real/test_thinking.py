"""A budget of thinking with a real tokenizer, a real chat template and a real distribution:
SmolLM2, told to think."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tools import real_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not real_model.is_there(), reason=f"the real model is not here: {real_model.HOW}"),
]
BEGIN = "<|im_start|>assistant\n"  # of the answer, by the chat template
BUDGETS = (0, 5, 24, None)
END = " I answer now.</think>\n\n"


@pytest.mark.thorough
def test_a_real_model_thinks_as_long_as_it_may_and_answers(
    runner: Callable[..., Any], tmp_path: Path
) -> None:
    model = shutil.copytree(real_model.plain_folder(), tmp_path / "thinks")
    file = model / "chat_template.jinja"
    file.write_text(file.read_text().replace(BEGIN, f"{BEGIN}<think>\n"))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is the capital of France?\nName three colours.\nWhat is 7 times 8?\n")
    kept: dict[int | None, list[dict[str, Any]]] = {}
    for budget in BUDGETS:
        more = () if budget is None else (f"generation.thinking_end={END}",)
        done = runner(
            "task=generate", f"task.prompts={prompts}", "model=auto", f"model.name={model}", "tracking=none",
            "generation.max_new_tokens=40", f"generation.thinking_tokens={json.dumps(budget)}", "print=json", *more,
        )  # fmt: skip
        assert done.code == 0, done.err
        lines = (Path(done.json()["output_dir"]) / "samples.jsonl").read_text().splitlines()
        kept[budget] = sorted(map(json.loads, lines), key=lambda it: int(it["index"]))
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    end = tokenizer(END, add_special_tokens=False)["input_ids"]
    for number, free in enumerate(kept[None]):
        assert free["ending"] == "cut_off_thinking", "it was never taught to close its thinking"
        for budget in BUDGETS[:-1]:
            one = kept[budget][number]
            if len(free["token_ids"]) <= budget:  # it has ended within its thinking
                assert one["token_ids"] == free["token_ids"]
                continue
            assert one["thinking_tokens"] == budget
            assert one["token_ids"][:budget] == free["token_ids"][:budget]
            assert one["token_ids"][budget : budget + len(end)] == end
            assert one["answer_tokens"] <= 40 + len(end)
            assert one["ending"] in ("budget_spent", "cut_off_answer")
            assert "<think>" not in one["text"] + one["thinking"]
    assert all(one["text"].strip() for one in kept[0]), "it answers when it is told to"
