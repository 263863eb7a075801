"""Python function `evaluate`: runs a job with the same config, records and MLflow runs as on the
command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from runner.config.compose import compose_job
from runner.config.error_messages import convert_config_errors
from runner.config.hydra import format_config_as_yaml, to_runner_config
from runner.config.override_quoting import format_sweep_override, quote_override_values
from runner.config.renamed_keys import rename_old_keys_in_overrides
from runner.config.variables import read_variable_overrides
from runner.library.notebook_view import NotebookRecord
from runner.run import run
from runner_base import ConfigError, environment, signals
from runner_base.loggers import use_info_logging

# "task.limit=3", several of them, or {"task.limit": 3}
Overrides = str | Sequence[str] | Mapping[str, Any]


def evaluate(*overrides: Overrides) -> NotebookRecord:
    """Run the job that the overrides define, or return its recorded result, like the command `runner
    OVERRIDES`.
    """
    with command_environment():
        given = convert_to_command_line_overrides(overrides)
        composed, choices = compose_job([*read_variable_overrides(given), *given])
        config = to_runner_config(composed, choices)
        if config.plan:
            raise ConfigError(
                "evaluate() runs a job. For a plan use runner.grid(..., 'plan=true')",
                key="plan",
                value="true",
                code="unsupported",
            )
        return NotebookRecord.from_record(run(config, format_config_as_yaml(composed)))


def convert_to_command_line_overrides(override_groups: Sequence[Overrides]) -> list[str]:
    """Convert overrides to command-line syntax. In a mapping, a list of values becomes a sweep.

    If the key's own type is a list, the list is a single value.
    """
    arguments: list[str] = []
    for part in override_groups:
        if isinstance(part, Mapping):
            names = rename_old_keys_in_overrides(part)
            values = zip(names, part.values(), strict=True)
            arguments += [format_sweep_override(name, value) for name, value in values]
        else:
            arguments += quote_override_values(
                rename_old_keys_in_overrides([part] if isinstance(part, str) else part)
            )
    return arguments


@contextmanager
def command_environment() -> Iterator[None]:
    """Handle log messages, Ctrl-C and user errors in this block as the command line does."""
    with use_info_logging(override_level=False), convert_config_errors():
        environment.load_dotenv()
        with signals.install_handlers_temporarily():
            yield
