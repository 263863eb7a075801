"""A job that fails with a shared base changes no answer of a later job of its worker."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.config.root import RunnerConfig
from runner.grid.outcomes import run_grid_job
from runner.records.jobs import read_samples
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import Status
from runner_engine import BaseModelCache, LocalModelConfig
from runner_engine.decode.decoder import Decoder
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig


@pytest.fixture
def config(make_config: Callable[..., RunnerConfig], tiny_model: LocalModelConfig) -> RunnerConfig:
    return make_config(
        model=tiny_model, task=Gsm8kConfig(limit=3), generation=GenerationConfig(max_new_tokens=12)
    )


def answers(
    config: RunnerConfig, bases: BaseModelCache, seed: int = 0
) -> tuple[Status, list[Sequence[int]], str]:
    """Run a job as a worker does; return how it ended, the tokens of its answers, and its message."""
    outcome = run_grid_job(replace(config, seed=seed), base_models=bases)
    if outcome.record is None or outcome.status is not Status.FINISHED:
        return outcome.status, [], outcome.message
    found = read_samples(Path(outcome.record.output_dir) / "samples.jsonl")
    return outcome.status, [found[index].answer.token_ids for index in sorted(found)], outcome.message


def fail_amid_exchange(patch: pytest.MonkeyPatch, config: RunnerConfig, folder: Path) -> RunnerConfig:
    def half_exchanged(model: Any, *rest: Any) -> Any:
        with torch.no_grad():
            model.get_output_embeddings().weight.fill_(float("nan"))
        raise RuntimeError("injected")

    patch.setattr("runner_engine.local.engine.FastLayers", half_exchanged)
    return config


def fail_while_decoding(patch: pytest.MonkeyPatch, config: RunnerConfig, folder: Path) -> RunnerConfig:
    whole, calls = Decoder.step, itertools.count()

    def step(decoder: Decoder, *rest: Any) -> Any:
        if next(calls) == 5:
            raise RuntimeError("injected")
        return whole(decoder, *rest)

    patch.setattr(Decoder, "step", step)
    return config


def fail_at_a_wrong_adapter(patch: pytest.MonkeyPatch, config: RunnerConfig, folder: Path) -> RunnerConfig:
    """The first matrices fit, a later one has another shape."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(config.model.name)
    get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"])).save_pretrained(str(folder))
    tensors = load_file(folder / "adapter_model.safetensors")
    last = max(tensors)
    save_file({**tensors, last: tensors[last][:, :-1].contiguous()}, folder / "adapter_model.safetensors")
    return replace(config, lora=PeftConfig(path=str(folder)))


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("fail", [fail_amid_exchange, fail_while_decoding, fail_at_a_wrong_adapter])
def test_the_next_job_has_the_answers_of_a_job_alone(
    fail: Callable[[pytest.MonkeyPatch, RunnerConfig, Path], RunnerConfig],
    config: RunnerConfig,
    tmp_path: Path,
) -> None:
    bases = BaseModelCache()
    _, alone, _ = answers(config, BaseModelCache())
    assert answers(config, bases, seed=1)[:2] == (Status.FINISHED, alone)
    with pytest.MonkeyPatch.context() as patch:
        failing = fail(patch, config, tmp_path / "adapter")
        status, _, message = answers(failing, bases, seed=2)
    assert status is Status.FAILED, message
    status, after, message = answers(config, bases, seed=3)
    assert (status, after) == (Status.FINISHED, alone), message


@pytest.mark.thorough
def test_a_changed_base_has_other_answers(config: RunnerConfig) -> None:
    """The control: the comparison sees a base that a job has changed."""
    bases = BaseModelCache()
    _, before, _ = answers(config, bases)
    with torch.no_grad():
        bases._base.model.get_output_embeddings().weight.neg_()
    _, after, _ = answers(config, bases, seed=1)
    assert after != before


def test_a_base_with_a_process_of_its_own_stays_after_an_error() -> None:
    class Server:
        def close(self) -> None: ...

    for base, stays in ((object(), False), (Server(), True)):
        bases = BaseModelCache()
        bases.get_or_load_base_model("a", lambda base=base: base)  # type: ignore[misc]
        bases.drop_after_error()
        assert bases.get_or_load_base_model("a", object)[1] is stays
