"""The shipped adapter that retrieves: it finds needles within the model's 1,024 positions, and the
model alone does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grids import samples

from runner_engine.embedded import LORA_RECALL_DIR, MODEL_DIR
from tools.embedded_model.evaluate import Score
from tools.embedded_model.recall import CARD_LENGTHS

CARD = json.loads((MODEL_DIR.parent / "card_recall.json").read_text())
README = (MODEL_DIR.parent / "README.md").read_text()
ASKED = ("task=recall", "task.lengths=[256,512,1k]", "task.depths=[0,0.5,1]", "task.cases=6")
SHORT = ("generation.max_new_tokens=40", "task.pictures=false", "print=none", "tracking=none")


def recall(runner: Callable[..., Any], folder: Path, lora: str) -> dict[int, float]:
    """Return the share of right answers at each length."""
    done = runner(*ASKED, *SHORT, f"lora={lora}", f"output_dir={folder / 'outputs'}")
    assert done.code == 0, done.stderr
    (lines,) = samples(folder).values()
    lengths = sorted({line["recall_length"] for line in lines})
    verdicts = {
        length: [line["verdict"] for line in lines if line["recall_length"] == length] for length in lengths
    }
    return {length: of_length.count("correct") / len(of_length) for length, of_length in verdicts.items()}


@pytest.mark.thorough
def test_the_adapter_finds_needles_within_its_positions_and_the_model_alone_does_not(
    runner: Callable[..., Any], tmp_path: Path
) -> None:
    found = recall(runner, tmp_path / "adapter", "embedded_recall")
    assert sorted(found) == [256, 512, 1024]
    assert min(found.values()) >= 0.8, found
    alone = recall(runner, tmp_path / "alone", "none")
    assert max(alone.values()) <= 0.1, alone


def test_card_is_in_the_readme() -> None:
    names = [*(f"{length:,} tokens" for length in CARD_LENGTHS), "word problems"]
    for variant in ("base", "adapter"):
        scores = CARD["scores"][variant]
        assert list(scores) == names
        for name in names:
            measured = Score(scores[name]["correct"], scores[name]["n"])
            low, high = measured.compute_interval()
            assert f"{100 * measured.accuracy:.1f} ({100 * low:.1f}–{100 * high:.1f})" in README, name
    assert min(CARD["scores"]["adapter"][name]["accuracy"] for name in names[:-1]) >= 0.75
    assert max(CARD["scores"]["base"][name]["accuracy"] for name in names[:-1]) <= 0.05


def test_the_folder_is_small_and_complete() -> None:
    assert sorted(path.name for path in LORA_RECALL_DIR.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (LORA_RECALL_DIR / "adapter_model.safetensors").stat().st_size <= 700_000
    assert (
        json.loads((LORA_RECALL_DIR / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "embedded"
    )
