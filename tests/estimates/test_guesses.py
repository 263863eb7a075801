"""What a plan knows of guessed tokens: memory of a draft, and a range of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from job_engines import open_engine
from written_records import ANSWERS, write

from runner.config.measures import SweepConfig
from runner.config.resolved import resolve_job
from runner.estimates.jobs import JobEstimate, estimate_memory_and_time
from runner.estimates.recorded import FinishedJobs
from runner.estimates.render import format_estimated_time_and_source
from runner.estimates.speed import EstimateBasis
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import format_duration
from runner_base.dtypes import Dtype
from runner_base.notes import note
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig


@pytest.fixture
def planned(make_config: Callable[..., Any]) -> Callable[..., tuple[Any, JobEstimate]]:
    def plan(speculate: Any, task: Any = None) -> tuple[Any, JobEstimate]:
        generation = GenerationConfig(max_new_tokens=200, batch_size=4, speculate=speculate)
        config = make_config(
            model=LocalModelConfig("embedded", device="cpu", dtype=Dtype.float32),
            task=task or Gsm8kConfig(limit=4),
            generation=generation,
        )
        folder = Path(config.output_dir)
        return config, estimate_memory_and_time(
            {0: resolve_job(config)}, folder, False, num_questions={0: 4}
        )[0]

    return plan


def ends(found: JobEstimate) -> tuple[float, float]:
    """Return the least and the most seconds."""
    time = found.time
    assert time is not None
    return time.seconds * (1 - time.spread), time.seconds * (1 + time.spread)


@pytest.mark.thorough
def test_the_memory_of_a_draft_is_that_of_one_that_is_loaded(planned: Callable[..., Any]) -> None:
    fits = {}
    for name, speculate in {"off": "off", "draft": "draft", "whole": {"layers": 1}}.items():
        config, found = planned(speculate)
        assert found.fit is not None
        fits[name] = found.fit.predicted
        if name == "off":
            continue
        engine = open_engine(config)
        loaded = engine.load().metrics
        engine.close()
        of_draft = fits[name].weight_mib - fits["off"].weight_mib
        kept = loaded["draft_mib"]
        if name == "draft":
            assert of_draft == pytest.approx(kept, rel=0.05)
        else:
            assert of_draft == pytest.approx(fits["off"].weight_mib), "it is loaded whole"
            assert kept < of_draft
    assert fits["draft"].kv_cache_mib == pytest.approx(2 * fits["off"].kv_cache_mib, rel=0.01)


def test_the_time_is_a_range_from_all_guesses_right_to_none(planned: Callable[..., Any]) -> None:
    found = {name: planned(name)[1] for name in ("off", "ngram", "draft")}
    low, high = ends(found["ngram"])
    off_low, off_high = ends(found["off"])
    assert low < off_low, "four tokens a pass"
    assert high > off_high, "one token a pass, which reads four"
    least, most = found["ngram"].time.ends
    assert format_estimated_time_and_source(found["ngram"].time)[0] == (
        f"{format_duration(least.seconds)} – {format_duration(most.seconds)} ± {most.spread:.0%}"
    ), "the two ends of the note, each with the error of the speed"
    assert format_estimated_time_and_source(found["off"].time)[0].startswith("≤ ")
    assert ends(found["draft"])[1] > high, "the draft's passes take time, too"
    assert found["off"].time is not None
    assert found["off"].time.notes == []
    for name in ("ngram", "draft"):
        time = found[name].time
        assert time is not None
        assert time.source is EstimateBasis.guessed
        (noted,) = time.notes
        assert (noted.code, noted.values["asked"]) == ("guesses_unknown", name)
    longer = planned({"kind": "ngram", "tokens": 8})[1]
    assert ends(longer)[0] < low


def test_finished_jobs_say_how_many_guesses_are_right(planned: Callable[..., Any]) -> None:
    config, unknown = planned("draft")
    other = replace(config, task=Gsm8kConfig(limit=4, shots=5))
    # of 84 tokens 42 were guessed right: a pass gave two
    write(other, ANSWERS | {"draft_tokens": 126, "accepted_tokens": 42})
    found = planned("draft")[1]
    assert found.time is not None
    assert found.time.source is EstimateBasis.guessed
    assert found.time.notes == [note("guesses_known", asked="draft", jobs=1, tokens=(2.0, 2.0))]
    assert ends(unknown)[0] < ends(found)[0] < ends(found)[1] < ends(unknown)[1]
    write(other, ANSWERS | {"draft_tokens": 126, "accepted_tokens": 63}, "another")
    assert planned("draft")[1].time.notes == [note("guesses_known", asked="draft", jobs=2, tokens=(2.0, 4.0))]
    assert planned("ngram")[1].time.notes[0].code == "guesses_unknown", "others guess otherwise"


def test_a_job_that_guesses_otherwise_is_not_alike(planned: Callable[..., Any]) -> None:
    config, _ = planned("off")
    write(config, ANSWERS)
    finished = FinishedJobs(Path(config.output_dir))
    for speculate, is_alike in (("off", True), ("auto", True), ("draft", False), ("ngram", False)):
        other = replace(config, generation=replace(config.generation, speculate=speculate))
        assert (finished.estimate_time_from_records(other) is not None) == is_alike, speculate


def test_a_sweep_counts_its_batches_without_guesses(planned: Callable[..., Any]) -> None:
    task = SweepConfig(batch_sizes=[1], prompt_tokens=[8], new_tokens=512, repeats=100, warmup=0)
    off, ngram = (planned(speculate, task)[1] for speculate in ("off", "ngram"))
    assert ends(ngram)[0] > 1.1 * ends(off)[0]
    assert ends(ngram)[1] > 1.8 * ends(off)[1]


def test_a_draft_that_is_not_here_is_no_error_of_a_plan(planned: Callable[..., Any]) -> None:
    found = planned({"model": "HuggingFaceTB/no-such-draft"})[1]
    assert (found.fit, found.time) == (None, None)
