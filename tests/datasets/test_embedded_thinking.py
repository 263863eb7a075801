"""The shipped adapter that thinks: it writes tags and an answer, more thinking solves more, and
some thoughts never end."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from grids import samples
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner.datasets.word_problems import Split, generate_problems
from runner_engine.embedded import LORA_THINKING_DIR, MODEL_DIR
from tools.embedded_model.evaluate import Score
from tools.embedded_model.thinking import BUDGETS, CARD_SPLITS, MAX_NEW_TOKENS, measure
from tools.embedded_model.thinking_data import final

CARD = json.loads((MODEL_DIR.parent / "card_thinking.json").read_text())
README = (MODEL_DIR.parent / "README.md").read_text()


@pytest.mark.thorough
def test_a_job_thinks_then_answers(runner: Callable[..., Any], tmp_path: Path) -> None:
    done = runner("lora=embedded_thinking", "task.split=hard", "task.limit=16", "print=none", "tracking=none")
    assert done.code == 0, done.stderr
    (lines,) = samples(tmp_path).values()
    closed = [line for line in lines if line["verdict"] != "cut_off"]
    assert sum(line["verdict"] == "correct" for line in closed) >= 10
    assert 0 < len(lines) - len(closed) < 8  # some never end
    for line in closed:
        assert line["thinking"].count("=") >= 3
        assert line["text"].strip() == final(line["extracted"]["strict"])


def test_card_is_in_the_readme_and_rises_with_the_budget() -> None:
    rows = {name: [CARD["scores"][split][name] for split in CARD_SPLITS] for name in CARD["scores"]["hard5"]}
    assert len(rows) == len(BUDGETS) + len(MAX_NEW_TOKENS)
    for name, entries in rows.items():
        measured = [Score(entry["correct"], entry["n"]) for entry in entries]
        cells = [
            f"{100 * it.accuracy:.1f} ({100 * it.compute_interval()[0]:.1f}–{100 * it.compute_interval()[1]:.1f})"
            for it in measured
        ]
        assert f"| {name} | {' | '.join(cells)} |" in README
    for none, whole in zip(
        rows["at most 0 thinking tokens"], rows["at most 128 thinking tokens"], strict=True
    ):
        assert none["accuracy"] + 0.8 < whole["accuracy"]
    for split, (least, first) in {"hard": (0.87, 0.1), "hard5": (0.75, 0.1)}.items():
        scores = [
            CARD["scores"][split][f"at most {budget} thinking tokens"]["accuracy"] for budget in BUDGETS
        ]
        assert scores == sorted(scores)
        assert scores[0] < first
        assert scores[-1] > least


@pytest.mark.thorough
@pytest.mark.slow
def test_more_thinking_solves_more_and_a_budget_saves_thoughts_without_end() -> None:
    with warnings.catch_warnings():
        # peft 0.21 uses a deprecated name of transformers 5.23.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        base = AutoModelForCausalLM.from_pretrained(str(MODEL_DIR), dtype=torch.bfloat16)
        model = PeftModel.from_pretrained(base, str(LORA_THINKING_DIR)).eval()
    asked = generate_problems(Split.HARD5, 40)
    measured = measure(model, AutoTokenizer.from_pretrained(str(MODEL_DIR)), asked, (0, 128), (256,))
    none, whole = (measured.scores[f"at most {it} thinking tokens"].correct for it in (0, 128))
    assert none + 24 <= whole
    assert measured.cut_off[256] >= 2
    assert measured.scores["at most 256 new tokens"].correct < whole
