"""Long continuations: scored in chunks or as pieces after all earlier tokens, they are scored as in one pass."""

from __future__ import annotations

from pathlib import Path

import hybrids
import pytest
import torch
from opening import make_spec, open_engine
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_engine.decode.tokens import scoring
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.model import LocalModelConfig
from tools import families

PROMPT, TOKENS, CHUNK = 9, 120, 16  # the window of the sliding families is 16, too
IDS = [3 + place * place * 7 % 250 for place in range(PROMPT + TOKENS)]


def build_model(family: str, folder: Path, tokenizer: Path) -> Path:
    """Save a tiny model of a hybrid family, or of one with sliding windows."""
    if family in hybrids.HYBRIDS:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(hybrids.HYBRIDS[family]()).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    else:
        families.build(family, folder)
    return folder


@pytest.mark.parametrize("family", ["mistral", "gemma2", "qwen3_5", "lfm2"])
def test_chunks_and_pieces_are_scored_as_one_pass(
    family: str, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_model(family, tmp_path / family, tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, PROMPT - 1 : -1]
    expected = logits.log_softmax(dim=-1).gather(1, torch.tensor(IDS[PROMPT:])[:, None])[:, 0]
    monkeypatch.setattr(scoring, "MAX_LOGITS", {"cpu": CHUNK * logits.shape[-1]})
    whole = Request("whole", tuple(IDS[:PROMPT]), continuation=tuple(IDS[PROMPT:]))
    pieces = [
        Request(begin, tuple(IDS[:begin]), continuation=tuple(IDS[begin : begin + 40]))
        for begin in range(PROMPT, len(IDS), 40)
    ]
    model_config = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32)
    engine = open_engine(make_spec(model=model_config))
    done = {one.id: one.logprobs for one in contract.complete_requests(engine, [whole, *pieces])}
    engine.close()
    torch.testing.assert_close(torch.tensor(done["whole"]), expected, atol=2e-4, rtol=0)
    joined = [logprob for piece in pieces for logprob in done[piece.id] or []]
    torch.testing.assert_close(torch.tensor(joined), expected, atol=2e-4, rtol=0)
