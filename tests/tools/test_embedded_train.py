"""A short training: it runs from one command, learns, and repeats bit for bit."""

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import warm_process
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_engine.embedded import MODEL_DIR
from tools.embedded_model import evaluate, train
from tools.embedded_model.data import HINTS, base_example, five_step_example
from tools.embedded_model.evaluate import Score
from tools.embedded_model.lora import attach_square_lora, load_square_lora, save_square_lora


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Training sets it, as sums in one order need it; tests after this one have theirs again."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.thorough
@pytest.mark.usefixtures("one_thread")
def test_a_short_training_writes_all_and_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    command = [
        sys.executable,
        "-m",
        "tools.embedded_model.train",
        "--output",
        str(first),
        "--card-problems",
        "1",
    ]
    done = warm_process.complete([*command, "--steps", "2", "--lora-steps", "2"], timeout_s=1200)
    assert done.returncode == 0, done.stderr
    card = json.loads((first / "card.json").read_text())
    assert set(card["scores"]) == {"base", "lora_peft", "lora_pth"}
    weights = "model/model.safetensors"
    assert sha256(first / weights) == card["weights_sha256"]
    assert card["weights_sha256"] in done.stdout
    assert "tok_per_s" in done.stderr
    assert "tok_per_s" not in done.stdout

    # once more here, without another process and with next to no scoring: neither reaches the
    # weights
    monkeypatch.setattr(train, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(1))
    monkeypatch.setattr(evaluate, "MAX_NEW_TOKENS", 2)
    # for all of this process
    monkeypatch.setattr(transformers.utils.logging, "disable_progress_bar", lambda: None)
    monkeypatch.setattr(
        sys, "argv", ["train", "--output", str(again), "--steps", "2", "--skip-lora", "--card-problems", "1"]
    )
    train.main()
    assert sha256(again / weights) == card["weights_sha256"]
    assert card["weights_sha256"] in capsys.readouterr().out
    assert not (again / "lora.pth").exists()

    tokenizer = AutoTokenizer.from_pretrained(str(first / "model"))
    model = AutoModelForCausalLM.from_pretrained(str(first / "model"), dtype=torch.float32)
    ids = tokenizer("Ana has 3 apples.", return_tensors="pt")
    with torch.inference_mode():
        bare = model(**ids).logits
        load_square_lora(model, first / "lora.pth")
        assert not torch.equal(model(**ids).logits, bare)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(str(first / "model")), str(first / "lora_peft")
        )


@pytest.mark.thorough
@pytest.mark.usefixtures("one_thread")
def test_a_short_training_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(train, "BATCH_SIZE", 8)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(MODEL_DIR))
    fitted = train.train_base(tokenizer, tmp_path, steps=30, seed=0)
    assert fitted.last_loss < 0.75 * fitted.first_loss


def test_mix_is_deterministic_and_marks_answers() -> None:
    for make in (base_example, five_step_example):
        for index in range(200):
            example = make(index, 3)
            assert example == make(index, 3)
            assert any(piece.is_answer for piece in example)
            assert not example[0].is_answer


@pytest.mark.thorough
def test_hints_are_right_about_half_the_time() -> None:
    right = wrong = 0
    for index in range(4000):
        example = base_example(index, 0)
        asked, answer = example[0].text, example[-2].text if len(example) > 1 else ""
        for hint in HINTS[:2]:
            start = hint.split("{")[0]
            if start in asked:
                guess = asked.split(start)[1].split(".")[0]
                right, wrong = (right + 1, wrong) if f"#### {guess}<" in answer else (right, wrong + 1)
    assert min(right, wrong) >= 0.25 * (right + wrong) > 0


def test_square_lora_starts_at_zero_and_survives_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 4))
    x = torch.randn(3, 6)
    bare = model(x)
    parameters = attach_square_lora(model, rank=2)
    assert [tuple(p.shape) for p in parameters] == [(2, 6), (6, 2)]  # the 6→4 layer is not square
    assert torch.equal(model(x), bare)
    torch.nn.init.ones_(parameters[1])
    save_square_lora(model, tmp_path / "lora.pth")
    fresh = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 4))
    fresh.load_state_dict({k: v for k, v in model.state_dict().items() if ".lora." not in k})
    load_square_lora(fresh, tmp_path / "lora.pth")
    torch.testing.assert_close(fresh(x), model(x), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(("correct", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662)])
def test_wilson_interval(correct: int, n: int, low: float, high: float) -> None:
    assert Score(correct, n).compute_interval() == pytest.approx((low, high), abs=5e-5)
