"""The training data of the adapter that retrieves, and a short training."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import warm_process
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from runner.tasks.recall.cases import CaseSettings
from runner.tasks.recall.kinds import load_case_generator
from runner_engine.embedded import MODEL_DIR
from tools.embedded_model.fit import Batch, fit
from tools.embedded_model.recall_data import LONG_ROWS, SHORT_ROWS, Needles, batches, example_of, positioned
from tools.embedded_model.tokenizer import MAX_POSITION, TURN_START


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(MODEL_DIR))


@pytest.fixture(scope="module")
def needles(tokenizer: Any) -> Needles:
    return Needles(tokenizer, "training/0")


def test_an_example_is_a_case_in_parts_and_answered_with_its_needle(tokenizer: Any, needles: Needles) -> None:
    for number in range(60):
        one = needles.spread(number, is_long=False)
        *asked, answer = one.example
        prompt = "".join(piece.text for piece in asked)
        assert prompt.endswith(f"{TURN_START}assistant\n")
        assert answer.text.removesuffix("<|im_end|>") in prompt, "the needle's own words"
        assert prompt.index("One of the special") == len(asked[0].text) + 1, "cut before the first needle"
        assert [piece.is_answer for piece in one.example] == [False] * 4 + [True]
        # cut where tokens end: the model reads what it is asked in a job
        assert sum(needles.tokens_of(piece.text) for piece in asked) == needles.tokens_of(prompt)


def test_positions_have_gaps_around_the_needle_and_end_within_the_room(
    tokenizer: Any, needles: Needles
) -> None:
    befores, behinds = set(), set()
    for number in range(60):
        one = needles.spread(number, is_long=False)
        batch = positioned(tokenizer, [one])
        assert batch.positions is not None
        assert batch.positions[0, 0] == 0
        assert batch.positions[0, -1] < MAX_POSITION
        gaps = [int(step) - 1 for step in batch.positions[0].diff() if step != 1]
        assert gaps == [gap for gap in one.gaps if gap]
        befores.add(one.gaps[1])
        behinds.add(one.gaps[2])
    assert max(befores) > 300
    assert max(behinds) > 300
    assert 0 in befores


def test_batches_are_a_function_of_the_seed_and_some_are_long(tokenizer: Any) -> None:
    first, again, other = ([*batches(tokenizer, 20, seed)] for seed in (0, 0, 1))
    assert all(torch.equal(one.ids, same.ids) for one, same in zip(first, again, strict=True))
    assert not torch.equal(first[0].ids, other[0].ids)
    shapes = [tuple(batch.ids.shape) for batch in first]
    long_ones = [number for number, (rows, _) in enumerate(shapes, 1) if rows == LONG_ROWS]
    assert long_ones == [15, 20]
    assert max(length for rows, length in shapes if rows == SHORT_ROWS) < 400
    assert all(400 < length <= MAX_POSITION for rows, length in shapes if rows == LONG_ROWS)


@pytest.mark.thorough
def test_no_job_asks_for_a_needle_that_was_trained_on(needles: Needles) -> None:
    trained = {needles.asked(number, 2).gold[0] for number in range(2000)}
    asked = set()
    for seed in range(20):
        recipe = CaseSettings("single", seed, 30, [0, 0.5, 1], "numbers", 4, needles.filler)
        asked |= {case.at(2).gold[0] for case in load_case_generator("single")(recipe)}
    assert len(asked) > 1700
    assert len(asked & trained) <= 2  # of nine million by chance


def test_a_text_fills_its_length(needles: Needles) -> None:
    for length in (256, 1000):
        tokens = sum(needles.tokens_of(piece.text) for piece in example_of(needles.filling(3, length)))
        assert length - 15 < tokens <= length


def test_what_stands_before_a_gap_is_seen_behind_it() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model: Any = LlamaForCausalLM(config)
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    positions = torch.tensor([[0, 1, 2, 50, 51, 52]])
    batch = Batch(ids, torch.tensor([[0.0, 0, 0, 0, 0, 1]]), 6, positions)
    other = replace(batch, ids=torch.tensor([[9, 4, 5, 6, 7, 8]]))

    def loss(of: Batch) -> float:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        return fit("test", model, [optimizer], iter([of]), 1, is_bfloat16=False).first_loss

    assert loss(batch) != loss(other)
    assert loss(batch) != loss(replace(batch, positions=None)), "positions count"
    with torch.no_grad():  # the control: without a mask transformers begins another text at the gap
        logits = [
            model(input_ids=one.ids, position_ids=positions, use_cache=False).logits[0, -1]
            for one in (batch, other)
        ]
    assert torch.equal(*logits)


@pytest.mark.thorough
def test_a_short_training_writes_adapter_and_card_and_repeats(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "again"):
        command = [sys.executable, "-m", "tools.embedded_model.recall", "--steps", "2", "--card-cases", "1"]
        done = warm_process.complete([*command, "--output", str(tmp_path / name)])
        assert done.returncode == 0, done.stderr
        folder = tmp_path / name / "lora_recall"
        assert (
            json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "embedded"
        )
        digests.append(hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest())
        card = json.loads((tmp_path / name / "card_recall.json").read_text())
        assert {score["n"] for by in card["scores"].values() for score in by.values()} == {1}
        assert set(card["scores"]) == {"base", "adapter"}
    assert digests[0] == digests[1]
