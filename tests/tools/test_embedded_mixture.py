"""The mixture that is made of the embedded model: without noise it computes the same, and it is
saved for the runner."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from runner_engine.embedded import MODEL_DIR
from runner_engine.experts import separate_all_experts
from tools import embedded_mixture

IDS = torch.randint(10, 800, (1, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def dense() -> Any:
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


@torch.no_grad()
def test_without_noise_it_computes_what_the_embedded_model_does(dense: Any) -> None:
    own = dense(IDS).logits
    assert torch.allclose(embedded_mixture.mixture(dense, 0).eval()(IDS).logits, own, atol=1e-4)
    assert not torch.allclose(embedded_mixture.mixture(dense, 0.5).eval()(IDS).logits, own, atol=1e-2)


@pytest.mark.thorough
def test_it_is_saved_with_each_expert_apart_and_with_the_tokenizer(dense: Any, tmp_path: Path) -> None:
    embedded_mixture.save(embedded_mixture.mixture(dense, 0.5), tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [len([*experts.children()]) for experts in separate_all_experts(saved).values()] == [
        9
    ] * 4  # 8, and the activation
