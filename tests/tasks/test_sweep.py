"""The sweep on the stub, on engines that fail, and on a real tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from tasking import work

from runner.config.measures import SweepConfig
from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, JobFailed
from runner.core.result import read_repeats
from runner.engines import open_engine
from runner.engines.base import EngineReport, Event, Request, RequestId
from runner.engines.kinds.stub import StubEngine, StubSession
from runner.engines.synthetic import synthetic_requests
from runner.store.jobs import Job, Recorder
from runner.tasks import sweep

MakeConfig = Callable[..., RunnerConfig]
COLUMNS = [
    "batch_size",
    "prompt_tokens",
    "ttft_s",
    "prefill_tok_per_s",
    "decode_tok_per_s",
    "decode_spread",
    "seconds",
    "peak_rss_mib",
]


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    folder = tmp_path / "job"
    folder.mkdir()
    return Recorder(Job("sweep-test", folder))


class Spy(StubEngine):
    """Notes what it was asked, and runs out of memory where it is told to."""

    def __init__(self, config: RunnerConfig, fail_at: tuple[int, ...] = (), error: Exception | None = None):
        super().__init__(config, delay_s=0.0)
        self.calls: list[tuple[int, int]] = []
        self.requests: list[Sequence[Request]] = []
        self.fail_at, self.error = fail_at, error

    def load(self) -> EngineReport:
        report = super().load()
        report.metrics["max_positions"] = 100.0
        return report

    def open(self, batch_size: int | None = None) -> StubSession:
        return SpySession(self, batch_size)


class SpySession(StubSession):
    """Tells its engine what a whole list of requests was."""

    def __init__(self, engine: Spy, batch_size: int | None) -> None:
        super().__init__(engine)
        self.spy, self.batch_size = engine, batch_size

    def _advance(self, arrived: list[Request], cancelled: set[RequestId]) -> list[Event]:
        if arrived:
            assert self.batch_size == len(arrived)
            assert all(isinstance(request.prompt, tuple) for request in arrived)
            self.spy.calls.append((self.batch_size, len(arrived[0].prompt)))
            self.spy.requests.append(arrived)
            if self.batch_size in self.spy.fail_at and self.spy.error is not None:
                raise self.spy.error
        return super()._advance(arrived, cancelled)


def small(**keys: Any) -> SweepConfig:
    plain: dict[str, Any] = {"batch_sizes": [1, 2], "prompt_tokens": [4, 8], "new_tokens": 3, "repeats": 2, "warmup": 1}
    return SweepConfig(**(plain | keys))


def test_rows_metrics_and_raw_repeats(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small())
    result = work(sweep, config, recorder, open_engine(config))
    assert [list(row) for row in result.rows] == [COLUMNS] * 4
    assert [(row["batch_size"], row["prompt_tokens"]) for row in result.rows] == [
        (1, 4),
        (1, 8),
        (2, 4),
        (2, 8),
    ]
    assert result.metrics["decode_tok_per_s/batch_2_prompt_8"] > 0
    assert all(re.fullmatch(r"[\w\-. :/]+", key) for key in result.metrics)
    assert result.metrics["best_decode_tok_per_s"] == max(
        value for key, value in result.metrics.items() if key.startswith("decode_tok_per_s/")
    )
    lines = [json.loads(line) for line in (recorder.folder / "repeats.jsonl").read_text().splitlines()]
    assert [line["repeat"] for line in lines] == [1] * 16 + [2] * 16  # 4 figures of 4 cells, the warm-up left out
    repeats = read_repeats(recorder.folder / "repeats.jsonl")
    assert len(repeats) == 16
    for measure, values in repeats.items():
        assert result.metrics[measure] == median(values)


def test_repeats_are_interleaved_over_the_cells(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small())
    engine = Spy(config)
    work(sweep, config, recorder, engine)
    assert engine.calls == [(1, 4), (1, 8), (2, 4), (2, 8)] * 3


def test_prompts_differ_by_row_and_repeat_but_not_by_run(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small(batch_sizes=[8], prompt_tokens=[4]))
    engine, again = Spy(config), Spy(config)
    work(sweep, config, recorder, engine)
    work(sweep, config, recorder, again)
    assert engine.requests == again.requests
    assert len({request.prompt for call in engine.requests for request in call}) == 3 * 8
    assert all(len({request.prompt[0] for request in call}) == 8 for call in engine.requests)
    assert all(request.ignore_eos and request.max_new_tokens == 3 for request in engine.requests[0])


def test_prompts_of_one_token_and_of_a_tiny_vocabulary() -> None:
    assert len(synthetic_requests(5, 1, 2, vocab_size=2, seed=0)) == 5
    assert len(synthetic_requests(1, 3, 2, vocab_size=1, seed=0)[0].prompt) == 3


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    "error",
    [MemoryError("no room"), OutOfMemoryError("no room"), RuntimeError("can't allocate memory: no room")],
)
def test_a_cell_out_of_memory_becomes_a_note(make_config: MakeConfig, recorder: Recorder, error: Exception) -> None:
    config = make_config(task=small())
    engine = Spy(config, fail_at=(2,), error=error)
    result = work(sweep, config, recorder, engine)
    assert [row["note"] for row in result.rows[:2]] == ["", ""]
    assert all("no room" in row["note"] and row["seconds"] is None for row in result.rows[2:])
    assert not any("batch_2" in key for key in result.metrics)
    assert engine.calls.count((2, 4)) == 1  # not tried again
    assert any("2 of 4 cells" in note for note in result.notes)


def test_every_cell_out_of_memory_fails_the_job(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small())
    with pytest.raises(JobFailed, match="no room"):
        work(sweep, config, recorder, Spy(config, fail_at=(1, 2), error=MemoryError("no room")))


def test_other_errors_end_the_sweep(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small())
    with pytest.raises(ValueError, match="a bug"):
        work(sweep, config, recorder, Spy(config, fail_at=(2,), error=ValueError("a bug")))


def test_a_prompt_too_long_is_refused_before_the_first_run(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small(prompt_tokens=[4, 99]))
    engine = Spy(config)
    with pytest.raises(ConfigError, match=r"task\.prompt_tokens=99 and task\.new_tokens=3 .* room for 100"):
        work(sweep, config, recorder, engine)
    assert engine.calls == []


def test_a_real_model(make_config: MakeConfig, recorder: Recorder, tiny_llama: Path) -> None:
    config = make_config(model=LocalModelConfig(name=str(tiny_llama), device="cpu"), task=small())
    engine = open_engine(config)
    result = work(sweep, config, recorder, engine)
    assert len(result.rows) == 4
    assert all(row["ttft_s"] > 0 and row["decode_tok_per_s"] > 0 for row in result.rows)
    assert all(row["ttft_s"] <= row["seconds"] for row in result.rows)
    assert result.metrics["load_s"] > 0
    assert result.ran_short_mib is None
    # 3 runs of every cell: (1 + 1 + 2 + 2 rows) x 2 tokens after the first
    assert engine.stats.decode_tokens == 3 * 6 * 2
