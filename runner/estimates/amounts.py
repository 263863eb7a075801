"""Estimates the number of completions and tokens that a job requests."""

from __future__ import annotations

from runner.config.root import RunnerConfig
from runner.config.task import RequestedCompletions
from runner_base import machine
from runner_engine import Attention, to_local_model_config


def estimate_requested_completions(
    config: RunnerConfig, num_questions: int | None = None
) -> list[RequestedCompletions]:
    """Return the completions that a job requests, with their numbers of tokens.

    Automatic repeats count only if answers are independent of their batch.
    """
    task = config.task.questions_config
    if task is None or can_decode_batch_invariantly(config):
        return config.task.list_requested_completions(config.generation, num_questions)
    amounts: list[RequestedCompletions] = task.without_auto_repeats.list_requested_completions(
        config.generation, num_questions
    )
    return amounts


def can_decode_batch_invariantly(config: RunnerConfig) -> bool:
    """Return whether the engine may compute each answer independently of the other answers in its batch.

    They are for a local model on a CPU with our own kernels. Elsewhere task.check_invariance=auto
    repeats no question.
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
