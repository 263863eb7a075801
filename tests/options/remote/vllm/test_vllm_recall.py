"""task=recall with model=vllm: texts are counted with the tokenizer beside the weights, and its
server answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vllm_standin import VllmStandIn, vllm_keys

Run = Callable[..., Any]
RECALL = (
    "tracking=none",
    "task=recall",
    "task.kinds=[problem]",
    "generation.max_new_tokens=96",
    "print=json",
)
FEW = ("task.lengths=[256]", "task.depths=[0,1]", "task.cases=3", "task.pictures=false")


def lengths_and_answers(tmp_path: Path, metrics: dict[str, Any]) -> dict[int, tuple[int, str]]:
    (file,) = (path for path in tmp_path.rglob(f"jobs/{metrics['job_id']}/samples.jsonl"))
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    return {sample["index"]: (sample["prompt_tokens"], sample["text"]) for sample in samples}


@pytest.mark.thorough
def test_its_server_gets_the_texts_that_a_local_model_gets(runner: Run, tmp_path: Path) -> None:
    folder = f"output_dir={tmp_path / 'out'}"
    served = runner(*RECALL, *FEW, folder, *vllm_keys(VllmStandIn(tmp_path / "env"), "model.compare=false"))
    assert served.code == 0, served.err
    local = runner(*RECALL, *FEW, folder, "model.dtype=float32")
    assert local.code == 0, local.err
    by_server, here = (lengths_and_answers(tmp_path, json.loads(done.out)) for done in (served, local))
    assert len(here) == 6
    assert by_server == here
    assert all(100 < tokens <= 256 - 96 for tokens, _ in here.values())


@pytest.mark.parametrize(("more", "room"), [((), "1,024"), (("model.max_positions=512",), "512")])
def test_longer_texts_than_it_takes_are_refused_without_a_scaling(
    runner: Run, tmp_path: Path, more: tuple[str, ...], room: str
) -> None:
    standin = VllmStandIn(tmp_path / "env")
    done = runner(*RECALL, "task.lengths=[2k]", *vllm_keys(standin, *more))
    assert done.code == 2
    assert f"task.lengths=2048: with rope=native the model's limit is {room} tokens. " in done.err
    assert not standin.started
