"""How many guessed tokens were right, by the kind of text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.config.root import RunnerConfig
from runner.render.titles import GUESSES_BY_KIND
from runner.run import run
from runner.tasks.collecting.draft_token_counts import ALL, build_draft_acceptance_rows
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.result import Answer, FinishReason, Sample
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Counts = tuple[list[int], list[int]]


def sample(index: int, kind: str | None, guessed: Counts | None, **more: Any) -> Sample:
    answer = Answer(text="", token_ids=[], finish_reason=FinishReason.stop)
    return Sample(answer, "", 1, 1.0, index=index, category=kind, guessed=guessed, **more)


def test_kinds_of_text_are_counted_apart() -> None:
    code, prose = ([10, 8, 6], [8, 6, 3]), ([10, 2, 1], [2, 1, 0])
    samples = [
        sample(0, "code", code),
        sample(1, "prose", prose),
        sample(2, "code", code),
        sample(3, None, prose),
        sample(4, "prose", None),
        sample(5, "prose", code, reused_from="generate-1"),
    ]
    first, second, last = build_draft_acceptance_rows(samples)
    assert first == {
        "kind": "code",
        "answers": 2,
        "guesses": 20,
        "token_1": "80%",
        "token_2": "75%",
        "token_3": "50%",
        "tokens_a_step": 2.7,
    }
    assert second["kind"] == "prose"
    assert (second["token_1"], second["tokens_a_step"]) == ("20%", 1.3)
    assert (last["kind"], last["answers"], last["guesses"]) == (ALL, 4, 40)


def test_one_kind_needs_no_table() -> None:
    assert build_draft_acceptance_rows([sample(0, "code", ([1], [1])), sample(1, "code", ([1], [0]))]) == []
    assert build_draft_acceptance_rows([sample(0, "code", None), sample(1, "prose", None)]) == []


def test_a_job_has_the_table(make_config: Callable[..., RunnerConfig], tmp_path: Path) -> None:
    """Stories of the word problems are kinds of text; the same model as draft is always right."""
    config = make_config(
        model=LocalModelConfig(name="embedded", device="cpu"),
        task=Gsm8kConfig(limit=12, cluster="template"),
        generation=GenerationConfig(speculate={"kind": "draft", "model": "embedded", "tokens": 2}),
        output_dir=str(tmp_path),
    )
    result = run(config).result
    *kinds, whole = result.tables[GUESSES_BY_KIND]
    assert len(kinds) > 2
    assert sum(row["answers"] for row in kinds) == whole["answers"] == 12
    assert sum(row["guesses"] for row in kinds) == whole["guesses"]
    assert whole["token_1"] == f"{result.metrics['acceptance_share/token_1']:.0%}" == "100%"
    assert 2 < whole["tokens_a_step"] <= 3
