"""What guessed tokens gain in a sweep: each batch with them and without, by turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from job_engines import open_engine
from tasking import work

from runner.config.measures import SweepConfig
from runner.config.root import RunnerConfig
from runner.records.jobs import Job, Recorder
from runner.render.notes import format_note
from runner.render.titles import WITHOUT_GUESSES
from runner.speed import cells, gains
from runner.speed.cells import Cell
from runner.tasks.sweep import task as sweep
from runner_base import Result
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.notes import Note, note
from runner_compare.statistics import compute_clopper_pearson_interval
from runner_engine.decode.drafting import drafter_speculator
from runner_engine.decode.tokens import verify_draft_tokens
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
TASK = SweepConfig(batch_sizes=[1, 3], prompt_tokens=[6], new_tokens=9, repeats=6, warmup=0, pictures=False)


@pytest.fixture
def swept(make_config: Make, saved_family: Callable[..., Path], tmp_path: Path) -> Callable[..., Result]:
    def run(speculate: Any, task: SweepConfig = TASK) -> Result:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        name = str(saved_family(max_position_embeddings=512))
        config = make_config(
            model=LocalModelConfig(name=name, device="cpu", dtype=Dtype.float32),
            generation=GenerationConfig(speculate=speculate),
            task=task,
        )
        return work(sweep, config, Recorder(Job("gains", folder)), open_engine(config))

    return run


def differ(differing: int, result: Result) -> Note:
    values = {
        "differing": differing,
        "answers": 24,
        "interval": compute_clopper_pearson_interval(differing, 24),
    }
    return note("answers_differ", **values, dtype=result.facts["dtype"])


@pytest.mark.thorough
def test_each_batch_runs_with_guesses_and_without(
    swept: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every second round the other way round, on the same prompts; in float32 no answer
    differs."""
    batches: list[tuple[int, bool, Any]] = []

    def noted(engine: Any, requests: Sequence[Request], *given: Any) -> Any:
        (is_guessed,) = {request.is_guessed for request in requests}
        batches.append((len(requests), is_guessed, [request.prompt for request in requests]))
        return complete_requests(engine, requests, *given)

    monkeypatch.setattr(cells, "complete_requests", noted)
    result = swept({"kind": "draft", "layers": 1})
    turns = [batch[:2] for batch in batches]
    even, odd = [(1, True), (1, False), (3, True), (3, False)], [(1, False), (1, True)]
    assert turns == 3 * (even + odd + [(3, False), (3, True)])
    prompts = [batch[2] for batch in batches]
    assert prompts[::2] == prompts[1::2]
    assert len({str(one) for one in prompts}) == len(prompts) // 2
    table = result.tables[WITHOUT_GUESSES]
    assert [row["batch_size"] for row in table] == [1, 3]
    for row in table:
        cell = f"batch_{row['batch_size']}_prompt_6"
        low, gain, high = (result.metrics[f"speculation_gain{end}/{cell}"] for end in ("_low", "", "_high"))
        assert 0 < low <= gain <= high
        assert row["interval_95"] == f"[{low:.2f}, {high:.2f}]"
        assert row["verdict"] in ("faster", "slower", "no difference shown")
        assert 0 <= result.metrics[f"acceptance_share/{cell}"] <= 1
    assert result.metrics["differing_answers"] == 0
    assert format_note(note("random_prompts")) in result.notes
    assert [text for text in result.notes if "without draft tokens" in text] == [
        format_note(differ(0, result))
    ]


@pytest.mark.thorough
def test_nothing_is_compared_where_nobody_guesses(swept: Callable[..., Result]) -> None:
    result = swept("auto")
    assert WITHOUT_GUESSES not in result.tables
    assert not any("gain" in key or "differ" in key for key in result.metrics)


@pytest.mark.thorough
def test_answers_that_differ_are_counted(
    swept: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: an engine that always takes another token where it checks guesses."""

    def wrong(*given: Any) -> Any:
        return [[(token + 1) % 200 for token in tokens] for tokens in verify_draft_tokens(*given)]

    monkeypatch.setattr(drafter_speculator, "verify_draft_tokens", wrong)
    result = swept({"kind": "draft", "layers": 1})
    assert result.metrics["differing_answers"] == 6 * 4
    assert format_note(differ(24, result)) in result.notes


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([1.1, 1.2, 1.3, 1.1, 1.2, 1.4], "faster"),
        ([0.9, 0.8, 0.7, 0.9, 0.8, 0.99], "slower"),
        ([1.1, 1.2, 1.3, 1.1, 1.2, 0.99], "no difference shown"),
        ([1.1, 1.2, 1.3, 1.1, 1.2], "too few pairs to tell"),
    ],
)
def test_verdicts(ratios: list[float], said: str) -> None:
    cell = Cell(4, 10, 5, key="batch_4_prompt_10")
    cell.repeats = [
        {"decode_tok_per_s": 100 * ratio, "off_decode_tok_per_s": 100.0, "speculation_gain": ratio}
        | {"differing_answers": 0.0}
        for ratio in ratios
    ]
    (row,) = gains.build_speculation_gain_rows([cell])
    assert row["verdict"] == said
    assert (row["interval_95"] is None) == (len(ratios) < 6)
    takes_more = note("too_few_repeats", fewest=6) in gains.make_speculation_gain_notes(
        [cell], "float32", True
    )
    assert takes_more == (len(ratios) < 6)


def test_a_plan_counts_both() -> None:
    once, twice = (
        TASK.list_requested_completions(GenerationConfig(speculate=speculate))
        for speculate in ("off", "ngram")
    )
    assert [amount.is_guessed for amount in once] == [True, True]
    assert [amount.is_guessed for amount in twice] == [True, False, True, False]
    assert [amount.completions for amount in twice] == [6, 6, 18, 18]


def test_a_stub_cannot_guess(make_config: Make, runner: Callable[..., Any]) -> None:
    for guess in ("draft", "ngram"):
        with pytest.raises(
            ConfigError,
            match=f"generation.speculate={guess}: .*model=stub has no model .*Use generation.speculate=off",
        ):
            make_config(generation=GenerationConfig(speculate=guess))
    done = runner("model=stub", "task=sweep", "generation.speculate=draft")
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    make_config(generation=GenerationConfig(speculate="auto"))
