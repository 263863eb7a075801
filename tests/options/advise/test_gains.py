"""Whether guessed tokens pay: as finished sweeps have measured, and nothing where none has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written_records import write

from runner.config.measures import SweepConfig
from runner.estimates.recorded import FinishedJobs
from runner.options import advise
from runner.options.advise.render.speculation_gains import describe_speedups
from runner.options.advise.speculation_gains import find_recorded_speedups
from runner_engine.quantization import CHOICES
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

ENDS = {1: (1.2, 1.1, 1.3), 4: (1.02, 0.9, 1.1), 8: (0.7, 0.6, 0.8)}


@pytest.fixture
def swept(make_config: Callable[..., Any]) -> Any:
    task = SweepConfig(batch_sizes=[1, 4, 8], prompts="embedded", repeats=6)
    return make_config(
        model=LocalModelConfig("embedded"), task=task, generation=GenerationConfig(speculate="draft")
    )


def figures(ends: dict[int, tuple[float, float, float]]) -> dict[str, float]:
    return {
        f"speculation_gain{end}/batch_{rows}_prompts": value
        for rows, values in ends.items()
        for end, value in zip(("", "_low", "_high"), values, strict=True)
    }


def words(config: Any, rows: int) -> list[str]:
    gains = find_recorded_speedups(config, FinishedJobs(Path(config.output_dir)))
    return describe_speedups(gains, rows)


@pytest.mark.parametrize(
    ("rows", "said"), [(1, "faster"), (4, "no difference shown"), (8, "slower"), (2, "not measured")]
)
def test_a_gain_is_said_where_it_was_measured(swept: Any, rows: int, said: str) -> None:
    write(swept, figures(ENDS))
    asked = replace(swept, generation=GenerationConfig())
    assert words(asked, rows) == [
        f"generation.speculate=draft: {said} at batch size {rows}. Measured speedups [95 %]: "
        "1.20 [1.10, 1.30] at batch size 1 (faster), 1.02 [0.90, 1.10] at batch size 4 (no difference shown), "
        "0.70 [0.60, 0.80] at batch size 8 (slower), recorded in job"
    ]


def test_nothing_is_said_without_a_measurement(swept: Any) -> None:
    assert words(swept, 1) == []
    no_interval = {key: value for key, value in figures(ENDS).items() if "_low" not in key}
    write(swept, no_interval)
    random = replace(swept, task=SweepConfig(batch_sizes=[1], repeats=6))
    write(random, figures(ENDS), "of random tokens")
    other = replace(swept, quantization=CHOICES["int8"]())
    write(other, figures(ENDS), "of another format")
    assert words(swept, 1) == []
    assert len(words(other, 1)) == 1


def test_each_kind_of_guesses_has_a_line(swept: Any) -> None:
    write(swept, figures(ENDS))
    lookup = replace(swept, generation=GenerationConfig(speculate="ngram"))
    write(lookup, figures({1: (0.9, 0.8, 0.95)}), "lookup")
    draft, ngram = words(swept, 1)
    assert draft.startswith("generation.speculate=draft: faster at batch size 1.")
    assert ngram == (
        "generation.speculate=ngram: slower at batch size 1. Measured speedups [95 %]: "
        "0.90 [0.80, 0.95] at batch size 1 (slower), recorded in lookup"
    )


def test_the_command_shows_it(
    swept: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(swept.output_dir).parent)
    write(swept, figures(ENDS))
    asked = ["model=embedded", f"output_dir={swept.output_dir}", "generation.batch_size=8"]
    assert advise.main([*asked, "--quick"]) == 0
    first, *others = capsys.readouterr().out.split("\n\n")[1:]
    line = (
        "   speculation  generation.speculate=draft: slower at batch size 8. Measured speedups [95 %]: 1.20"
    )
    assert line in first
    assert not any("speculation" in one for one in others), "another format was not measured"
