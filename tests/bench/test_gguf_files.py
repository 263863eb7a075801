"""The benchmark of .gguf files: its texts, ranks as ranges, and what it reads of llama.cpp's
output."""

from __future__ import annotations

import sys

import pytest
from transformers import AutoTokenizer

from runner_engine.embedded import MODEL_DIR


def test_texts_ranks_and_what_llama_cpp_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gguf_files.py"])
    import gguf_files
    from gguf_files import Divergence

    texts = gguf_files.texts_of(AutoTokenizer.from_pretrained(MODEL_DIR), 5)
    assert [len(text.ids) for text in texts] == [256] * 5
    near, between, far = Divergence(1, 0.5, 1.5), Divergence(2, 1.4, 2.5), Divergence(4, 3, 5)
    assert gguf_files.rank_ranges([near, between, far]) == [(1, 2), (1, 2), (3, 3)]
    assert gguf_files.contradictions([near, between, far], [far, between, near]) == 1
    assert gguf_files.contradictions([near, between, far], [between, near, far]) == 0
    found = gguf_files.divergence_of("Mean    KLD:   0.001112 ±   0.000100")
    assert found.value == 0.001112
    assert found.high == pytest.approx(0.001308)
    with pytest.raises(SystemExit, match="no mean divergence"):
        gguf_files.divergence_of("")
