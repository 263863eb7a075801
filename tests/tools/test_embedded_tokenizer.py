"""The shipped tokenizer, and a small one made on the spot."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from runner_engine.embedded import MODEL_DIR
from tools.embedded_model.data import base_example, task_prompt
from tools.embedded_model.fit import encode
from tools.embedded_model.tokenizer import PAD, TURN_END, VOCAB_SIZE, build_tokenizer, save_tokenizer

SHIPPED = AutoTokenizer.from_pretrained(str(MODEL_DIR))


def example_texts(count: int) -> list[str]:
    return ["".join(piece.text for piece in base_example(index, 0)) for index in range(count)]


@pytest.fixture(scope="module", params=["shipped", "fresh"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "shipped":
        return SHIPPED
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(build_tokenizer(example_texts(500)), folder)
    return AutoTokenizer.from_pretrained(str(folder))


def test_special_tokens_and_side(tokenizer: Any) -> None:
    assert tokenizer.eos_token == TURN_END
    assert tokenizer.pad_token == PAD
    assert tokenizer.padding_side == "left"
    assert len(tokenizer) <= VOCAB_SIZE
    assert tokenizer.model_max_length == 1024
    padded = tokenizer(["7", "7 8 9"], padding=True)
    assert padded["input_ids"][0][0] == tokenizer.pad_token_id
    assert set(padded) == {"input_ids", "attention_mask"}


def test_digits_are_single_tokens(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer("12*345=4140")["input_ids"]) == [*"12*345=4140"]


@pytest.mark.thorough
@given(st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    ids = SHIPPED(text, add_special_tokens=False)["input_ids"]
    assert SHIPPED.decode(ids) == text


def test_chat_template(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "#### 1"}]
    plain = tokenizer.apply_chat_template(turns, tokenize=False)
    assert plain == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n#### 1<|im_end|>\n"
    system = [{"role": "system", "content": "Be brief."}]
    asked = tokenizer.apply_chat_template([*system, turns[0]], tokenize=False, add_generation_prompt=True)
    assert asked.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")
    assert asked.endswith("<|im_start|>assistant\n")


def test_generation_marks_the_assistants_tokens(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "#### 2"}]
    out = tokenizer.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [i for i, mine in zip(out["input_ids"], out["assistant_masks"], strict=True) if mine]
    assert tokenizer.decode(said) == "#### 2<|im_end|>"


def test_training_prompt_is_the_chat_template(tokenizer: Any) -> None:
    question = "Ana has 3 apples. Ana buys 4 more. How many apples does Ana have?"
    content = f"{question}\n\nSolve it step by step. End with '#### ' and the number."
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert "".join(piece.text for piece in task_prompt(question)) == asked


@pytest.mark.parametrize("index", range(30))
def test_pieces_are_tokenized_as_the_whole(index: int) -> None:
    # Training encodes piece by piece, inference all at once: the ids must be the same.
    example = base_example(index, 0)
    ids, weights = encode(SHIPPED, example)
    assert ids == SHIPPED("".join(piece.text for piece in example), add_special_tokens=False)["input_ids"]
    assert SHIPPED.decode([i for i, w in zip(ids, weights, strict=True) if w == 1.0]) == "".join(
        piece.text for piece in example if piece.is_answer
    )
