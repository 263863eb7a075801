"""`evaluate`: a job from Python, with the same config, ledger and MLflow as on the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from runner.compat.variable_overrides import variables_as_overrides
from runner.config.compose import compose
from runner.config.hydra import as_yaml, config_errors, to_config
from runner.config.plain_text import quote_texts, sweep_of
from runner.core import environment, signals
from runner.core.errors import ConfigError
from runner.core.result import Record
from runner.run import run

Overrides = str | Sequence[str] | Mapping[str, Any]  # "task.limit=3", several of them, or {"task.limit": 3}


def evaluate(*overrides: Overrides) -> Record:
    """Do the job that these overrides describe, or return what is recorded of it, as `runner OVERRIDES` does."""
    with as_a_command():
        said = words(overrides)
        said = [*variables_as_overrides(said), *said]
        composed, choices = compose(said)
        config = to_config(composed, choices)
        if config.plan:
            raise ConfigError("plan=true: evaluate() does a job; runner.grid(..., 'plan=true') returns what would run")
        return run(config, as_yaml(composed))


def words(overrides: Sequence[Overrides]) -> list[str]:
    """Return overrides as on the command line; of a mapping, a list is a sweep unless the key itself holds a list."""
    said: list[str] = []
    for some in overrides:
        if isinstance(some, Mapping):
            said += [sweep_of(key, value) for key, value in some.items()]
        else:
            said += quote_texts([some] if isinstance(some, str) else [*some])
    return said


@contextmanager
def as_a_command() -> Iterator[None]:
    """Let messages reach a job's log, Ctrl-C end a job in order, and a user's mistake be one message."""
    logger = logging.getLogger("runner")
    before = logger.level
    logger.setLevel(before or logging.INFO)
    try:
        with config_errors():
            environment.read()
            with signals.handlers_installed():
                yield
    finally:
        logger.setLevel(before)
