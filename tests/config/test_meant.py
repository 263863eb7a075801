"""What the hints of wrong choices name: it exists, and takes as many bits as they say."""

from __future__ import annotations

import pytest

from runner.config import meant
from runner.config.choices import choices_for
from runner.config.tasks import TASKS
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import CheckpointSource, OwnLayers


def test_every_hint_names_a_choice() -> None:
    assert set(meant.TASKS.values()) <= {*TASKS, "serve"}, "the last is of an option"
    for word, task in meant.TASKS.items():
        assert (meant.meant("task", word) == f"task={word}: use task={task}") == (task in TASKS)
    assert not set(meant.TASKS) & set(choices_for("task"))
    for names, sources in (
        (meant.MADE, {CheckpointSource.plain}),
        (meant.STORED, {CheckpointSource.quantized}),
    ):
        for bits, choices in names.items():
            assert {CHOICES[name].source for name in choices} <= sources, bits
    assert all(CHOICES[name].own_layers is OwnLayers.made_groups for name in meant.IN_GROUPS)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_bits_that_are_offered_can_be_chosen(bits: int) -> None:
    assert f"hqq with quantization.bits={bits}" in meant.meant("quantization", f"int{bits}")
    for name in meant.IN_GROUPS:
        assert CHOICES[name](bits=bits).price(64, 64 * 64, 2)[0] <= 64 * 64 * bits / 8 + 1  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "choice",
    [
        "quantization=nf",
        "quantization=nf5",
        "quantization=int9",
        "model=qwen3",
        "lora=mine",
        "task=gsm",
        "rope=a/b",
    ],
)
def test_a_word_that_shows_nothing_gets_the_usual_message(choice: str) -> None:
    assert meant.meant(*choice.split("=")) == ""
