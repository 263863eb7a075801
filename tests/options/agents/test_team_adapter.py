"""The shipped adapter for a team's roles has the scores on its card."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner.datasets.word_problems import Split, generate_problems
from runner_engine.embedded import LORA_TEAM_DIR, MODEL_DIR
from tools.embedded_model.team import measure

pytestmark = pytest.mark.slow
README = (MODEL_DIR.parent / "README.md").read_text()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.thorough
def test_the_team_adapter_knows_its_roles() -> None:
    card = json.loads((MODEL_DIR.parent / "card_team.json").read_text())["scores"]["hard5"]
    for words in ("alone, Math Solver", "decision over the four", "wrong neighbour, Inspector"):
        assert f"{card[words]['accuracy']:.1%}".removesuffix("%") in README
    base = AutoModelForCausalLM.from_pretrained(str(MODEL_DIR), dtype=torch.bfloat16).eval()
    with warnings.catch_warnings():
        # peft 0.21 uses a deprecated name of transformers 5.23.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        team = PeftModel.from_pretrained(base, str(LORA_TEAM_DIR)).eval()
    scores = measure(team, AutoTokenizer.from_pretrained(str(MODEL_DIR)), generate_problems(Split.HARD5, 12))
    assert scores["alone, Math Solver"].correct >= 8
    assert scores["alone, Programming Expert"].correct >= 8
    assert scores["decision over the four"].correct >= 6
