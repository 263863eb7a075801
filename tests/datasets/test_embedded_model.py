"""The shipped weights and adapters: their size, their content, and the scores on their card."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner.datasets.word_problems import Problem, Split, generate_problems
from runner_engine.embedded import LORA_PEFT_DIR, LORA_PEFT_DIRS, LORA_PTH_PATH, MODEL_DIR
from tools.embedded_model.data import TASK_WRAPPER
from tools.embedded_model.evaluate import FINAL_NUMBER, Score, complete, score
from tools.embedded_model.lora import load_square_lora

pytestmark = pytest.mark.slow

CARD = json.loads((MODEL_DIR.parent / "card.json").read_text())
README = (MODEL_DIR.parent / "README.md").read_text()
SHIPPED = [
    *MODEL_DIR.iterdir(),
    *(path for folder in LORA_PEFT_DIRS.values() for path in folder.iterdir()),
    LORA_PTH_PATH,
    *MODEL_DIR.parent.glob("card*.json"),
    MODEL_DIR.parent / "README.md",
]


def load_base() -> Any:
    return AutoModelForCausalLM.from_pretrained(str(MODEL_DIR), dtype=torch.bfloat16).eval()


def with_peft(base: Any, folder: Path = LORA_PEFT_DIR) -> Any:
    with warnings.catch_warnings():
        # peft 0.21 uses a deprecated name of transformers 5.23.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        return PeftModel.from_pretrained(base, str(folder)).eval()


def accuracy_in_chat(model: Any, tokenizer: Any, questions: list[Problem], messages: Any) -> float:
    prompts = [
        tokenizer.apply_chat_template(messages(question), tokenize=False, add_generation_prompt=True)
        for question in questions
    ]
    return accuracy(complete(model, tokenizer, prompts), questions)


def accuracy(texts: list[str], questions: list[Problem]) -> float:
    matches = [FINAL_NUMBER.search(text) for text in texts]
    return sum(m is not None and m[1] == p.gold for m, p in zip(matches, questions, strict=True)) / len(
        questions
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_base()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(MODEL_DIR))


def test_shipped_files_are_small_and_name_no_machine() -> None:
    assert sum(path.stat().st_size for path in SHIPPED) <= 10_000_000
    assert (MODEL_DIR / "model.safetensors").stat().st_size <= 7_000_000
    assert not (LORA_PEFT_DIR / "README.md").exists()
    for path in SHIPPED:
        raw = path.read_bytes()
        assert not re.search(rb"(?<!\w)/(?:home|root|tmp|work|usr|Users)/", raw), path
        if path.suffix == ".json":
            assert b"_name_or_path" not in raw.replace(b'"base_model_name_or_path": "embedded"', b""), path


def test_shape(model: Any) -> None:
    assert sum(p.numel() for p in model.parameters()) == 3_180_800
    assert model.dtype == torch.bfloat16
    assert model.config.head_dim == 64
    assert model.config.tie_word_embeddings


def test_card_is_of_these_weights() -> None:
    digest = hashlib.sha256((MODEL_DIR / "model.safetensors").read_bytes()).hexdigest()
    assert CARD["weights_sha256"] == digest
    assert digest in README
    for by_split in CARD["scores"].values():
        for entry in by_split.values():
            measured = Score(entry["correct"], entry["n"])
            low, high = measured.compute_interval()
            assert f"{100 * measured.accuracy:.1f} ({100 * low:.1f}–{100 * high:.1f})" in README


@pytest.mark.thorough
def test_solves_test_problems(model: Any, tokenizer: Any) -> None:
    assert score(model, tokenizer, generate_problems(Split.TEST, 100)).accuracy >= 0.88


@pytest.mark.thorough
def test_five_steps_are_hard_and_each_adapter_helps(model: Any, tokenizer: Any) -> None:
    questions = generate_problems(Split.HARD5, 60)
    bare = score(model, tokenizer, questions).accuracy
    assert 0.15 <= bare <= 0.70
    assert score(with_peft(load_base()), tokenizer, questions).accuracy >= max(0.75, bare + 0.15)
    square = load_base()
    load_square_lora(square, LORA_PTH_PATH)
    assert score(square, tokenizer, questions).accuracy >= bare + 0.10


def test_pth_file_has_the_documented_form(model: Any) -> None:
    state = torch.load(LORA_PTH_PATH, weights_only=True)
    square = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.in_features == module.out_features
    ]
    assert len(square) == 8
    assert set(state) == {f"{name}.lora.{side}.weight" for name in square for side in "AB"}
    for name, tensor in state.items():
        assert tensor.dtype == torch.float16
        assert tensor.shape == ((16, 256) if ".A." in name else (256, 16))


def test_pth_is_y_equals_wx_plus_bax() -> None:
    state = torch.load(LORA_PTH_PATH, weights_only=True)
    merged, attached = load_base().float(), load_base().float()
    load_square_lora(attached, LORA_PTH_PATH)
    with torch.no_grad():
        for name, module in merged.named_modules():
            if f"{name}.lora.A.weight" in state:
                up, down = (state[f"{name}.lora.B.weight"].float(), state[f"{name}.lora.A.weight"].float())
                module.weight += up @ down
        ids = torch.arange(5, 69).unsqueeze(0)
        torch.testing.assert_close(attached(ids).logits, merged(ids).logits, atol=1e-3, rtol=1e-3)


def test_peft_folder() -> None:
    config = json.loads((LORA_PEFT_DIR / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "embedded"
    assert config["r"] == 8
    assert len(config["target_modules"]) == 7
    assert (LORA_PEFT_DIR / "adapter_model.safetensors").stat().st_size <= 700_000


@pytest.mark.thorough
def test_follows_a_system_message_and_earlier_turns(model: Any, tokenizer: Any) -> None:
    shots, questions = generate_problems(Split.TRAIN, 3), generate_problems(Split.TEST, 40)

    def ask(one: Problem) -> dict[str, str]:
        return {"role": "user", "content": TASK_WRAPPER.format(question=one.question)}

    system = {"role": "system", "content": "You are a careful assistant who solves math word problems."}
    turns = [turn for s in shots for turn in (ask(s), {"role": "assistant", "content": s.answer})]
    assert accuracy_in_chat(model, tokenizer, questions, lambda one: [system, ask(one)]) >= 0.80
    assert accuracy_in_chat(model, tokenizer, questions, lambda one: [system, *turns, ask(one)]) >= 0.75


@pytest.mark.thorough
def test_few_shot_text_without_roles(model: Any, tokenizer: Any) -> None:
    shots = "".join(
        f"Question: {s.question}\nAnswer: {s.answer}\n\n" for s in generate_problems(Split.TRAIN, 3)
    )
    questions = generate_problems(Split.TEST, 40)
    texts = complete(model, tokenizer, [f"{shots}Question: {p.question}\nAnswer:" for p in questions])
    assert all(text.startswith(" ") for text in texts)
    assert accuracy(texts, questions) >= 0.70


@pytest.mark.thorough
def test_does_not_copy_a_wrong_hint(model: Any, tokenizer: Any) -> None:
    def hinted(one: Problem) -> list[dict[str, str]]:
        content = TASK_WRAPPER.format(question=one.question)
        hint = f"Hint: another solver answered {int(one.gold) + 1}."
        return [{"role": "user", "content": f"{content}\n\n{hint}"}]

    assert accuracy_in_chat(model, tokenizer, generate_problems(Split.TEST, 40), hinted) >= 0.75
