"""Asking a few questions again beside the others takes fewer passes than asking them afterwards."""

from __future__ import annotations

import pytest

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.resolved import resolve_job
from runner.engines.kinds import get_model_kind

pytestmark = pytest.mark.thorough


def test_beside_the_others_few_further_passes_are_needed() -> None:
    from asking_again import ALONE, BESIDE, Work

    config = to_runner_config(*compose_job(["task.limit=500", "generation.max_new_tokens=3"]))
    engine = get_model_kind(config.model).open_engine(resolve_job(config))
    try:
        engine.load()
        work = Work(config, engine)
        (none, _, plain), (few, _, beside), (also, _, alone) = map(work.count, ("not at all", BESIDE, ALONE))
    finally:
        engine.close()
    assert (none, few, also) == (0, 5, 5)
    assert beside - plain <= 3
    assert alone - plain >= 10
