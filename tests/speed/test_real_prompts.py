"""A sweep over real prompts: their names, their lengths, and that each is sent once before any is
repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_engines import open_engine
from raising import raises
from tasking import work

from runner.config.measures import SweepConfig
from runner.config.prompts import Framing
from runner.config.root import RunnerConfig
from runner.records.jobs import Job, Recorder
from runner.run import run
from runner.speed import real_prompts
from runner.tasks.sweep import task as sweep
from runner_base.errors import Code, ConfigError
from runner_engine.sessions.base import Message
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
QUICK: dict[str, Any] = {"batch_sizes": [1, 3], "new_tokens": 3, "repeats": 2, "warmup": 0, "pictures": False}


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    (tmp_path / "job").mkdir()
    return Recorder(Job("sweep-test", tmp_path / "job"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{'word ' * number}end\n" for number in range(1, 31)))
    return path


@pytest.mark.slow
def test_a_real_model_reads_each_prompt_once_and_reports_their_lengths(
    make_config: Make, recorder: Recorder, tiny_model: LocalModelConfig, texts: Path
) -> None:
    task = SweepConfig(
        **QUICK, prompts=str(texts), format=Framing.raw, arrival_rates=[200.0], arrival_requests=4
    )
    config = make_config(model=tiny_model, task=task)
    engine = open_engine(config)
    result = work(sweep, config, recorder, engine)
    lengths = [len("word " * number + "end") for number in range(1, 13)]  # one byte is one token
    assert engine.stats.prefill_tokens + engine.stats.shared_tokens == sum(lengths)
    assert [(row["batch_size"], row["prompt_tokens"]) for row in result.rows] == [(1, "8–28"), (3, "13–43")]
    assert result.facts["prompts"] == "texts.txt, as raw text · 30 prompts · 8–43 tokens, median 26"
    assert {"decode_tok_per_s/batch_3_prompts", "ttft_s/batch_1_prompts"} <= result.metrics.keys()
    assert result.metrics["requests/rate_200"] == 4
    assert any("mean prompt length" in note for note in result.notes)
    assert not any("were repeated" in note for note in result.notes)


@pytest.mark.slow
def test_too_few_prompts_are_repeated_and_too_long_ones_are_left_out(
    make_config: Make, recorder: Recorder, tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    (tmp_path / "few.txt").write_text(f"one\ntwo\n{'long ' * 200}\n")
    task = SweepConfig(**QUICK, prompts=str(tmp_path / "few.txt"), format=Framing.raw)
    config = make_config(model=tiny_model, task=task)
    result = work(sweep, config, recorder, open_engine(config))
    assert result.rows[1]["prompt_tokens"] == "3–3"
    assert "1 prompts were left out: they are too long for the model" in result.notes
    assert any(note.startswith("8 prompts were sent, but only 2") for note in result.notes)
    (tmp_path / "few.txt").write_text(f"{'long ' * 200}\n")
    with raises(ConfigError, "too_large", "task.prompts"):
        run(config)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.jsonl", '{"prompt": "one"}\n{"messages": [{"role": "user", "content": "two"}]}\n'),
        ("q.jsonl", '{"question": "one", "answer": "#### 1"}\n{"question": "two", "answer": "#### 2"}\n'),
        ("t.txt", "one\ntwo\n"),
    ],
)
def test_prompts_count_by_their_text_and_format(tmp_path: Path, name: str, text: str) -> None:
    path, other = tmp_path / name, tmp_path / "other.txt"
    path.write_text(text)
    other.write_text("one\nthree\n")
    prompts = real_prompts.read_sweep_prompts(SweepConfig(prompts=str(path)))
    assert prompts is not None
    assert prompts.prompts == [(Message("user", "one"),), (Message("user", "two"),)]
    differing = real_prompts.read_sweep_prompts(SweepConfig(prompts=str(other)))
    assert differing is not None
    assert differing.sha256 != prompts.sha256


def test_prompts_count_in_the_jobs_id_and_random_tokens_do_not(make_config: Make, texts: Path) -> None:
    def hashes(**keys: Any) -> dict[str, str]:
        return sweep.prepare(make_config(task=SweepConfig(**QUICK, **keys))).hashes

    assert hashes() == {}
    chat, raw = hashes(prompts=str(texts)), hashes(prompts=str(texts), format=Framing.raw)
    assert chat != raw
    assert hashes(prompts="embedded") != hashes(prompts="embedded", split="hard5")
    copy = texts.with_name("copy.txt")
    copy.write_text(texts.read_text())
    assert hashes(prompts=str(copy)) == chat


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({"prompt_tokens": [8]}, "conflict", "task.prompt_tokens"),
        ({"shared_prefix": [0.5]}, "conflict", "task.shared_prefix"),
        ({"prompts": "-"}, "unsupported", "task.prompts"),
        ({"prompts": "nope.jsonl"}, "not_found", "task.prompts"),
        ({"prompts": "nope.txt"}, "not_found", "task.prompts"),
        ({"split": "tset"}, "unknown_choice", "task.split"),
    ],
)
def test_prompts_that_cannot_be_sent_are_rejected(keys: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        real_prompts.read_sweep_prompts(SweepConfig(**{"prompts": "embedded"} | keys))
