"""What a job requests, as far as its config tells whether its engine asks questions again."""

from __future__ import annotations

from runner.config.root import RunnerConfig
from runner.config.task import Amount
from runner_base import machine
from runner_engine import Attention, local_model


def amounts_of(config: RunnerConfig, read: int | None = None) -> list[Amount]:
    """Return a job's completions; those of task.check_invariance=auto only where its rows may be
    independent."""
    task = config.task.of_questions
    if task is None or may_have_independent_rows(config):
        return config.task.amounts(config.generation, read)
    amounts: list[Amount] = task.without_asking_again.amounts(config.generation, read)
    return amounts


def may_have_independent_rows(config: RunnerConfig) -> bool:
    """Whether several rows decode together without changing each other's answers, as far as the
    config tells.

    Of a local model on a CPU, by our own kernels, they do not; elsewhere task.check_invariance=auto
    asks nothing again.
    """
    model = local_model(config.model)
    return (
        model is config.model
        and machine.device_class(model.device) == "cpu"
        and model.device_map is None
        and model.attention is Attention.auto
        and not any(choice.mixes_rows for choice in config.mix.choices)
        and config.generation.batch_size != 1
    )
