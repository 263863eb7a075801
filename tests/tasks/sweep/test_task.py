"""The sweep on the stub, on engines that fail, and on a real tiny model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from job_engines import open_engine
from raising import raises
from tasking import work

from runner.config.measures import SweepConfig
from runner.config.root import RunnerConfig
from runner.engines.kinds.stub import StubEngine, StubSession
from runner.records.jobs import Job, Recorder
from runner.run import run
from runner.speed.cells import Cell
from runner.speed.limits import MachineLimits
from runner.speed.synthetic import create_random_requests
from runner.tasks.sweep import task as sweep
from runner_base.errors import ConfigError, JobFailed
from runner_base.notes import Note, note
from runner_base.repeats import read_repeats
from runner_engine.sessions.arithmetic import HardwareRates
from runner_engine.sessions.base import EngineReport, Event, Request, RequestId
from runner_engine.settings.model import LocalModelConfig

pytestmark = pytest.mark.slow

MakeConfig = Callable[..., RunnerConfig]
COLUMNS = [
    "batch_size",
    "prompt_tokens",
    "ttft_s",
    "prefill_tok_per_s",
    "decode_tok_per_s",
    "decode_spread",
    "seconds",
    "noise",
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

    def _run_step(self, submitted: list[Request], cancelled: set[RequestId]) -> list[Event]:
        if submitted:
            assert self.batch_size == len(submitted)
            assert all(isinstance(request.prompt, tuple) for request in submitted)
            self.spy.calls.append((self.batch_size, len(submitted[0].prompt)))
            self.spy.requests.append(submitted)
            if self.batch_size in self.spy.fail_at and self.spy.error is not None:
                raise self.spy.error
        return super()._run_step(submitted, cancelled)


def small(**keys: Any) -> SweepConfig:
    plain: dict[str, Any] = {
        "batch_sizes": [1, 2],
        "prompt_tokens": [4, 8],
        "new_tokens": 3,
        "repeats": 2,
        "warmup": 1,
    }
    return SweepConfig(**(plain | {"pictures": False} | keys))


@pytest.mark.thorough
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
    assert [line["repeat"] for line in lines] == [1] * 16 + [
        2
    ] * 16  # 4 figures of 4 cells, the warm-up left out
    repeats = read_repeats(recorder.folder / "repeats.jsonl")
    assert len(repeats) == 16
    for measure, values in repeats.items():
        assert result.metrics[measure] == median(values)


@pytest.mark.thorough
def test_repeats_are_interleaved_over_the_cells(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small())
    engine = Spy(config)
    work(sweep, config, recorder, engine)
    assert engine.calls == [(1, 4), (1, 8), (2, 4), (2, 8)] * 3


@pytest.mark.thorough
def test_prompts_differ_by_row_and_repeat_but_not_by_run(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small(batch_sizes=[8], prompt_tokens=[4]))
    engine, again = Spy(config), Spy(config)
    work(sweep, config, recorder, engine)
    (recorder.folder / "measurements.jsonl").unlink()
    work(sweep, config, recorder, again)
    assert engine.requests == again.requests
    assert len({request.prompt for call in engine.requests for request in call}) == 3 * 8
    assert all(len({request.prompt[0] for request in call}) == 8 for call in engine.requests)
    assert all(request.ignore_eos and request.max_new_tokens == 3 for request in engine.requests[0])


def test_prompts_of_one_token_and_of_a_tiny_vocabulary() -> None:
    assert len(create_random_requests(5, 1, 2, vocab_size=2, seed=0)) == 5
    assert len(create_random_requests(1, 3, 2, vocab_size=1, seed=0)[0].prompt) == 3


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        RuntimeError("CUDA out of memory: no room"),
        RuntimeError("can't allocate memory: no room"),
    ],
)
def test_a_cell_out_of_memory_becomes_a_note(
    make_config: MakeConfig, recorder: Recorder, error: Exception
) -> None:
    config = make_config(task=small())
    engine = Spy(config, fail_at=(2,), error=error)
    result = work(sweep, config, recorder, engine)
    assert [row["note"] for row in result.rows[:2]] == ["", ""]
    assert all("no room" in row["note"] and row["seconds"] is None for row in result.rows[2:])
    assert not any("batch_2" in key for key in result.metrics)
    assert engine.calls.count((2, 4)) == 1  # not tried again
    assert any("2 of 4 combinations of settings were not measured" in note for note in result.notes)


def test_every_cell_out_of_memory_fails_the_job(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small())
    with raises(JobFailed, "failed"):
        work(sweep, config, recorder, Spy(config, fail_at=(1, 2), error=MemoryError("no room")))


def test_other_errors_end_the_sweep(make_config: MakeConfig, recorder: Recorder) -> None:
    config = make_config(task=small())
    with pytest.raises(ValueError, match="a bug"):
        work(sweep, config, recorder, Spy(config, fail_at=(2,), error=ValueError("a bug")))


def test_a_prompt_too_long_is_refused_before_the_first_run(
    make_config: MakeConfig, recorder: Recorder
) -> None:
    config = make_config(task=small(prompt_tokens=[4, 99]))
    engine = Spy(config)
    with raises(ConfigError, "too_large"):
        work(sweep, config, recorder, engine)
    assert engine.calls == []


def test_names_mention_an_axis_with_several_values(make_config: MakeConfig, recorder: Recorder) -> None:
    task = small(batch_sizes=[2], prompt_tokens=[40], new_tokens=[3, 5], shared_prefix=[0, 0.9])
    config = make_config(task=task)
    engine = Spy(config)
    result = work(sweep, config, recorder, engine)
    names = [f"batch_2_prompt_40_new_{new}_shared_{share}" for new in (3, 5) for share in (0, 90)]
    assert [key.partition("/")[2] for key in result.metrics if key.startswith("ttft_s/")] == names
    assert [(row["new_tokens"], row["shared_prefix"]) for row in result.rows] == [
        (3, 0),
        (3, 0.9),
        (5, 0),
        (5, 0.9),
    ]
    plain, shared, *_ = engine.requests
    assert plain[0].prompt[0] != plain[1].prompt[0]
    assert shared[0].prompt[:36] == shared[1].prompt[:36]
    assert shared[0].prompt[36] != shared[1].prompt[36]
    assert all(len(request.prompt) == 40 for call in engine.requests for request in call)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_real_model(make_config: MakeConfig, recorder: Recorder, tiny_llama: Path) -> None:
    task = small(prompt_tokens=[4, 300], new_tokens=8, repeats=3, warmup=0, shared_prefix=[0.5], arrival_rates=[50, 200],
                 arrival_requests=6, pictures=True)  # fmt: skip
    config = make_config(model=LocalModelConfig(name=str(tiny_llama), device="cpu"), task=task)
    engine = open_engine(config)
    result = work(sweep, config, recorder, engine)
    metrics = result.metrics
    assert len(result.rows) == 4
    assert all(0 < row["ttft_s"] <= row["seconds"] for row in result.rows)
    assert metrics["load_s"] > 0
    assert result.ran_short_mib is None
    # 3 runs of every cell: (1 + 1 + 2 + 2 rows) x 7 tokens after the first; then two rates of 6
    # requests
    assert engine.stats.decode_tokens == 3 * 6 * 7 + 2 * 6 * 7
    assert engine.stats.shared_tokens == 3 * 2 * 150, (
        "half of a prompt of 300 tokens, which two rows have in common"
    )
    for row in result.tables["time between tokens, and fraction of the hardware limits"]:
        assert 0 < row["itl_p50_s"] <= row["itl_p95_s"] <= row["itl_p99_s"]
        assert row["decode_nearer_to"] in ("bandwidth", "matrix rate")
    for cell in ("batch_1_prompt_4", "batch_2_prompt_300"):
        decode, read = metrics[f"decode_gb_per_s/{cell}"], metrics["read_gb_per_s"]
        assert metrics[f"decode_read_share/{cell}"] == pytest.approx(decode / read)
        # half of a row's 7 gaps are as long as the median or longer; how much longer depends on the
        # machine
        gaps_s = 3.5 * metrics[f"itl_p50_s/{cell}"]
        assert max(gaps_s, metrics[f"ttft_s/{cell}"]) <= metrics[f"seconds/{cell}"], (
            "they are parts of the whole"
        )
    slow, quick = result.tables["load test: requests at a given rate"]
    assert (slow["requests_per_s"], slow["requests"]) == (50, 6)
    assert 0 < quick["ttft_p50_s"] <= quick["answer_p50_s"] <= quick["answer_p99_s"]
    assert (metrics["knee_requests_per_s"] > 0) == (slow["keeps_up"] != "no")
    assert (result.facts["keeps_up_to"] != "none of the tested rates") == (metrics["knee_requests_per_s"] > 0)
    assert 0 < slow["offered"] < quick["offered"]
    curve = result.series["decode_tok_per_s/over_batch_size_prompt_300"]
    assert curve == [(batch, metrics[f"decode_tok_per_s/batch_{batch}_prompt_300"]) for batch in (1, 2)]
    steps = [step for step, _ in result.series["answer_p95_s/over_requests_per_minute"]]
    assert steps == [3000, 12000]
    drawn = {file.stem: file.read_bytes()[:4] for file in recorder.folder.glob("*.png")}
    assert drawn == dict.fromkeys(
        ("throughput_latency", "speed_batch", "ttft_prompt", "latency_load"), b"\x89PNG"
    )


@pytest.mark.thorough
def test_pictures_that_are_asked_for_later_are_drawn_without_measuring(make_config: MakeConfig) -> None:
    done = run(make_config(task=small(arrival_rates=[200, 400], arrival_requests=2)))
    folder = Path(done.output_dir)
    assert not list(folder.glob("*.png"))
    again = run(make_config(task=small(arrival_rates=[200, 400], arrival_requests=2, pictures=True)))
    assert (again.job_id, again.from_ledger) == (done.job_id, True)
    assert len(list(folder.glob("*.png"))) == 4
    assert again.result.series == done.result.series


def noisy(*reasons: Note) -> Note:
    return note("noisy", reasons=reasons)


@pytest.mark.parametrize(
    ("spreads", "machine_noise", "beside", "found"),
    [
        ([0.01, 0.02, 0.03, 0.2], 0.0, "", note("quiet", count=3, total=4, share=0.1)),
        ([0.01, 0.02, 0.3, 0.2], 0.0, "", noisy(note("cells_vary", count=2, total=4, share=0.1))),
        ([0.01], 0.15, "", noisy(note("rates_vary", share=pytest.approx(0.15)))),
        ([0.01], 0.0, "beside other work", noisy(note("other_work", what="beside other work"))),
        ([], 0.0, "", note("noise_unknown", repeats=3)),
    ],
)
def test_noise_is_found(spreads: list[float], machine_noise: float, beside: str, found: Note) -> None:
    def repeats(spread: float) -> list[dict[str, float]]:
        return [{"decode_tok_per_s": value} for value in (100 - 50 * spread, 100 - 50 * spread, 100, 100 + 50 * spread,
                                                          100 + 50 * spread)]  # fmt: skip

    cells = [
        Cell(1, 1, 2, key=str(at), repeats=repeats(spread)) for at, spread in enumerate(spreads or [0.5])
    ]
    if not spreads:
        cells[0].repeats = cells[0].repeats[:2]
    limits = MachineLimits(
        None, [HardwareRates(100 * (1 + machine_noise * at), 10) for at in (-1, -0.5, 0, 0.5, 1)]
    )
    assert sweep.build_measurement_noise_note(cells, limits, beside) == found


# As above, in a process whose address space ends soon behind what it has when the model is loaded.
LIMITED = """
import json, resource, sys
from pathlib import Path
from tasking import work
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner.config.measures import SweepConfig
from runner_engine.settings.model import LocalModelConfig
from runner.config.root import RunnerConfig, NoTrackingConfig
from runner_engine.settings.rope import RopeConfig
from job_engines import open_engine
from runner_engine.sessions.arithmetic import HardwareRates
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.quantization.base import QuantizationConfig
from runner.records.jobs import Job, Recorder
from runner.tasks.sweep import task as sweep

folder = Path(sys.argv[1])
task = SweepConfig(batch_sizes=[1, 128, 2], prompt_tokens=[500], new_tokens=4, repeats=2, pictures=False)
config = RunnerConfig(model=LocalModelConfig(name="embedded", device="cpu"), quantization=QuantizationConfig(),
    lora=LoraConfig(), rope=RopeConfig(), generation=GenerationConfig(), task=task,
    tracking=NoTrackingConfig(), output_dir=str(folder))
engine = open_engine(config)
complete_requests(engine, [Request(0, (5, 6, 7), max_new_tokens=4, ignore_eos=True)])  # threads and buffers are there
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 100 * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))
result = work(sweep, config, Recorder(Job("limited", folder)), engine)
print(json.dumps([result.rows, result.notes, result.metrics["cells_not_measured"]]))
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds memory on Linux only")
def test_a_real_memory_limit_makes_a_note_of_a_cell_and_the_rest_goes_on(tmp_path: Path) -> None:
    support = Path(__file__).parents[2] / "support"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(support)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (first, large, last), notes, missing = json.loads(done.stdout.strip().splitlines()[-1])
    assert (first["note"], last["note"], missing) == ("", "", 1)
    assert first["decode_tok_per_s"] > 0
    assert last["decode_tok_per_s"] > 0
    assert large["note"].startswith("memory ran out")
    assert large["decode_tok_per_s"] is None
    assert "there was too little memory to measure this machine's limits" in notes
