"""Amounts of work that a job requests, as numbers of completions and tokens."""

from __future__ import annotations

from runner.config.root import RunnerConfig
from runner.config.task import WorkAmount
from runner_base import machine
from runner_engine import Attention, to_local_model_config


def estimate_work_amounts(config: RunnerConfig, num_questions: int | None = None) -> list[WorkAmount]:
    """Return the completions that a job requests. Automatically repeated questions count only if
    sequences may be independent.
    """
    task = config.task.questions_config
    if task is None or may_decode_independently(config):
        return config.task.requested_work(config.generation, num_questions)
    amounts: list[WorkAmount] = task.without_auto_repeats.requested_work(config.generation, num_questions)
    return amounts


def may_decode_independently(config: RunnerConfig) -> bool:
    """Return whether sequences in a batch may leave each other's answers unchanged, judged from the
    config alone.

    They do not for a local model on a CPU with our own kernels; elsewhere
    task.check_invariance=auto repeats no question.
    """
    model = to_local_model_config(config.model)
    return (
        model is config.model
        and machine.resolve_device_class(model.device) == "cpu"
        and model.device_map is None
        and model.attention is Attention.auto
        and not any(choice.depends_on_batch for choice in config.mix.quantizing_configs)
        and config.generation.batch_size != 1
    )
