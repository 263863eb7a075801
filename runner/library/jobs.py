"""`evaluate`: a job from Python, with the same config, ledger and MLflow as on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from runner.config.compose import compose
from runner.config.explained import config_errors
from runner.config.hydra import as_yaml, to_config
from runner.config.plain_text import quote_texts, sweep_of
from runner.config.variables import variables_as_overrides
from runner.library.shown import ShownRecord
from runner.run import run
from runner_base import ConfigError, environment, signals
from runner_base.loggers import logging_progress

# "task.limit=3", several of them, or {"task.limit": 3}
Overrides = str | Sequence[str] | Mapping[str, Any]


def evaluate(*overrides: Overrides) -> ShownRecord:
    """Run the job that these overrides describe, or return its recorded result, as `runner
    OVERRIDES` does."""
    with as_a_command():
        given = command_words(overrides)
        composed, choices = compose([*variables_as_overrides(given), *given])
        config = to_config(composed, choices)
        if config.plan:
            raise ConfigError(
                "evaluate() runs a job; runner.grid(..., 'plan=true') returns what would run",
                key="plan",
                value="true",
                code="unsupported",
            )
        return ShownRecord.of(run(config, as_yaml(composed)))


def command_words(overrides: Sequence[Overrides]) -> list[str]:
    """Return overrides as on the command line; a list in a mapping is a sweep, unless the key
    itself holds a list."""
    arguments: list[str] = []
    for part in overrides:
        if isinstance(part, Mapping):
            arguments += [sweep_of(key, value) for key, value in part.items()]
        else:
            arguments += quote_texts([part] if isinstance(part, str) else [*part])
    return arguments


@contextmanager
def as_a_command() -> Iterator[None]:
    """Log messages, handle Ctrl-C and report a user's mistakes as a command does."""
    with logging_progress(even_if_set=False), config_errors():
        environment.read()
        with signals.handlers_installed():
            yield
