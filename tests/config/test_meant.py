"""What the hints of wrong choices name: it exists, and takes as many bits as they say."""

from __future__ import annotations

import pytest

from runner.config import choice_suggestions
from runner.config.choices import list_choices
from runner.config.tasks import TASKS
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import CheckpointSource, OwnLayers


def test_every_hint_names_a_choice() -> None:
    assert set(choice_suggestions.TASKS.values()) <= {*TASKS, "serve"}, "the last is of an option"
    for word, task in choice_suggestions.TASKS.items():
        assert (choice_suggestions.suggest_choice("task", word) == f"task={word}: use task={task}") == (
            task in TASKS
        )
    assert not set(choice_suggestions.TASKS) & set(list_choices("task"))
    for names, sources in (
        (choice_suggestions.MADE, {CheckpointSource.plain}),
        (choice_suggestions.STORED, {CheckpointSource.quantized}),
    ):
        for bits, choices in names.items():
            assert {CHOICES[name].source for name in choices} <= sources, bits
    assert all(CHOICES[name].own_layers is OwnLayers.made_groups for name in choice_suggestions.IN_GROUPS)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_bits_that_are_offered_can_be_chosen(bits: int) -> None:
    assert f"hqq with quantization.bits={bits}" in choice_suggestions.suggest_choice(
        "quantization", f"int{bits}"
    )
    for name in choice_suggestions.IN_GROUPS:
        assert CHOICES[name](bits=bits).compute_weight_nbytes(64, 64 * 64, 2)[0] <= 64 * 64 * bits / 8 + 1  # type: ignore[call-arg]


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
    assert choice_suggestions.suggest_choice(*choice.split("=")) == ""
