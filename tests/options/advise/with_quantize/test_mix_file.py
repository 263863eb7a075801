"""A mix as a recipe of task=quantize."""

from __future__ import annotations

import shlex

import pytest

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.options.advise.mix import MixableModel
from runner.options.advise.mix_recipe import format_quantize_command
from runner.options.quantize.keys import QuantizeConfig


@pytest.mark.thorough
def test_the_command_gives_each_layer_as_many_bits_as_the_mix() -> None:
    def composed(words: list[str]) -> object:
        return to_runner_config(*compose_job(words))

    model = MixableModel.from_config(["model=embedded"], ["nf4", "int8", "none"], False, composed)  # type: ignore[arg-type]
    choice = tuple(2 if number < 3 else number % 2 for number in range(len(model.layers)))
    command = format_quantize_command(model, choice)
    assert command is not None
    words = shlex.split(command)[1:]
    task = to_runner_config(*compose_job([word.replace("=TEXTS", "=embedded") for word in words])).task
    assert isinstance(task, QuantizeConfig)
    assert task.group_size == 64  # 704 inputs are no groups of 128
    bits = {"nf4": 4, "int8": 8, "none": 16}

    def bits_of(path: str) -> int:
        fitting = [key for key in task.overrides if f"{path}.".startswith(f"{key}.")]
        return int(task.overrides[max(fitting, key=len)]) if fitting else task.bits or 0

    assert {path: bits_of(path) for path in model.map_paths_to_formats(choice)} == {
        path: bits[name] for path, name in model.map_paths_to_formats(choice).items()
    }


def test_formats_of_other_bits_make_no_file() -> None:
    def composed(words: list[str]) -> object:
        return to_runner_config(*compose_job(words))

    model = MixableModel.from_config(["model=embedded"], ["none", "nf4"], False, composed)  # type: ignore[arg-type]
    assert format_quantize_command(model, (0,) * len(model.layers)) is None
