"""How often the tokens of a haystack are read: once for all questions of a setting, by the count of
computed tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from recalling import distinct_beginnings, prompts_of

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines import create_lazy_engine
from runner.records.jobs import Job, Recorder
from runner.tasks.base import TaskContext
from runner.tasks.recall import task as recall
from runner.tasks.recall.keys import RecallConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import (
    Rope2dConfig,
    RopeConfig,
    RopeDynamicConfig,
    RopeLinearConfig,
    RopeYarnConfig,
)

Make = Callable[..., RunnerConfig]
SHORT = GenerationConfig(max_new_tokens=4)
ROPES = [
    RopeConfig(),
    Rope2dConfig(),
    RopeLinearConfig(factor=2),
    RopeDynamicConfig(factor=2),
    RopeYarnConfig(factor=2),
]


# Needles at different depths of one text part its beginnings in many places, and short common
# pieces are read again.
@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "most", "least"), [("several_asked_one", 1.01, 4), ("single", 1.2, 1.5)])
def test_each_setting_of_a_grid_reads_a_common_beginning_once(
    make_config: Make, tmp_path: Path, kind: str, most: float, least: float
) -> None:
    task = RecallConfig(kinds=[kind], lengths=["400", "800"], cases=2, pictures=False)
    computed: list[float] = []
    prompts: list[Sequence[int]] = []
    for rope in ROPES:
        config = make_config(
            model=LocalModelConfig(name="embedded", device="cpu"), generation=SHORT, task=task, rope=rope
        )
        folder = tmp_path / rope.name
        folder.mkdir()
        recorder, resolved = Recorder(Job("recall-test", folder)), resolve_job(config)
        engine = create_lazy_engine(resolved, None, folder)
        metrics = recall.run(recall.prepare(config), TaskContext(recorder, resolved, engine)).metrics
        engine.close()
        recorder.close()
        prompts = prompts_of(config)
        assert metrics["prompt_tokens"] == sum(map(len, prompts))
        computed.append(metrics["computed_prompt_tokens"])
    assert len(set(computed)) == 1, "no setting reads more than another"
    assert 1 <= computed[0] / distinct_beginnings(prompts) <= most
    assert sum(map(len, prompts)) >= least * computed[0], "each question alone would read this much"
