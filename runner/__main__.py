"""Entry point of `runner` and `python -m runner`: composes the config, runs the job, prints the
result.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, NoReturn

from runner_base import signals

if __name__ == "__main__" or os.path.basename(sys.argv[0]) == "runner":
    signals.exit_on_signals()  # the imports that follow take most of a second

import hydra
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.config import runner_hydra
from runner.config.command_line_typos import reject_mistyped_arguments
from runner.config.groups import GROUPS
from runner.config.hydra import format_config_as_yaml, to_runner_config
from runner.config.hydra_versions import apply_hydra_main_settings
from runner.config.override_quoting import expand_sweeper_shortcuts, quote_override_values
from runner.config.renamed_keys import rename_old_keys_in_overrides
from runner.config.root import RunnerConfig
from runner.config.variables import read_variable_overrides
from runner.core.typed_command import remember_command_line
from runner.render.progress_messages import HOW_TO_RESUME, STOPPING
from runner_base import ConfigError, Record, print_message, run_command, run_with_exit_code
from runner_base.console import StderrFilter
from runner_base.errors import exits_as_job_failed

WANTS_TRACEBACK = "HYDRA_FULL_ERROR" in os.environ  # for debugging the runner itself

exit_codes: list[int] = []  # of a single job; a grid raises an error with its own


def entry() -> NoReturn:
    """Run the command. Every user error becomes one message and an exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises exceptions instead of printing them
    signals.install_signal_handlers(on_signal_waiting=lambda: print_message(STOPPING))
    run_command("error", _main, format_user_error, HOW_TO_RESUME)


def _main() -> int:
    exit_codes[:] = [0]  # Hydra drops what main returns
    with apply_hydra_main_settings(), remember_command_line(sys.argv[1:]):
        sys.argv[1:] = convert_to_hydra_arguments(sys.argv[1:])
        runner_hydra.run_hydra_command_line(main)
    return max(exit_codes)


def convert_to_hydra_arguments(arguments: list[str]) -> list[str]:
    """Convert command-line arguments to Hydra's syntax: overrides first, with text values quoted."""
    parser = get_args_parser()
    for action in parser._actions:
        if action.dest == "version" and any(word.startswith("--v") for word in arguments):  # also abbreviated
            action.version = _format_runner_version()  # type: ignore[attr-defined]
    known, unknown = parser.parse_known_args(arguments)
    options_known = [name for action in parser._actions for name in action.option_strings]
    reject_mistyped_arguments(arguments, unknown, options_known)
    overrides = known.overrides + [word for word in unknown if not word.startswith("-")]
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    renamed = rename_old_keys_in_overrides(overrides, is_silent=bool(known.shell_completion))
    quoted = quote_override_values(expand_sweeper_shortcuts(renamed))
    is_run = not (known.help or known.hydra_help or known.info or known.shell_completion)
    from_variables = (
        read_variable_overrides(quoted, known.config_name or "config", known.config_dir) if is_run else []
    )
    return [*from_variables, *quoted, *options]


def _format_runner_version() -> str:
    """Return the text of --version, also in a checkout that is not installed."""
    # takes a tenth of the time of a quick command
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("runner-llm")
    except PackageNotFoundError:
        own = "(not installed)"
    return f"runner {own} (Hydra {hydra.__version__})"


def format_user_error(error: Exception) -> str | None:
    """Return the message for an error that the user can fix, or None for a bug."""
    if WANTS_TRACEBACK:
        return None
    from runner.config.error_messages import explain_error  # with all that a message names

    return explain_error(error)


def main(composed: DictConfig) -> Any:
    hydra_config = HydraConfig.get()
    if hydra_config.mode is not RunMode.MULTIRUN:  # Hydra would print an error in its own way
        with_exits = exits_as_job_failed()(run_single_job)
        exit_codes.append(
            run_with_exit_code("error", lambda: with_exits(composed, hydra_config), format_user_error)
        )
        return None
    if "GridSweeper" in str(hydra_config.sweeper.get("_target_")):
        from runner.grid.other_launchers import run_launched_job

        return run_launched_job(composed, hydra_config)
    return run_search_trial(composed, hydra_config)


def run_single_job(composed: DictConfig, hydra_config: HydraConf) -> int:
    """Run one job, print its result and return the exit code."""
    from runner.report import print_record
    from runner.run import run, run_as_torchrun_worker
    from runner.tracking.stores import create_store_from_config

    config = to_runner_config(composed, hydra_config.runtime.choices)
    if files := hydra_config.sweeper.get("files"):
        raise ConfigError(
            f"files={files} needs a grid of jobs. Add -m, or run a study such as which_file", code="missing"
        )
    if config.plan:
        return _print_plan(config, hydra_config)
    if (
        code := run_as_torchrun_worker(config)
    ) is not None:  # another process has the job, and this one works for it
        return code
    get_exit_code = _create_exit_code_function(config, hydra_config)
    has_table = config.print.is_table
    # the table of an endless task comes too late
    StderrFilter.table_follows = has_table and not config.task.is_endless
    record = run(config, format_config_as_yaml(composed))
    choices = {group: hydra_config.runtime.choices[group] for group in GROUPS if group != "tracking"}
    only_answers = config.task.answers_on_stdout and has_table and not sys.stdout.isatty()
    with redirect_stdout(sys.stderr if only_answers else sys.stdout):
        print_record(record, choices, config.print, create_store_from_config(config))
    if record.error:  # the task ran to its end and found a problem
        summary, _, details = record.error.partition(":\n")  # the table has the details
        print_message(f"error: {summary if has_table and details else record.error}")
    return get_exit_code(record)


def _create_exit_code_function(config: RunnerConfig, hydra_config: HydraConf) -> Callable[[Record], int]:
    """Return a function that computes a job's exit code from its record. With gate.baseline, it runs the gate."""
    if config.gate.baseline is None:
        return lambda record: 1 if record.error else 0
    from runner.grid.grid_gate import prepare_release_gate_for_job

    return prepare_release_gate_for_job(list(hydra_config.overrides.task), config)


def run_search_trial(composed: DictConfig, hydra_config: HydraConf) -> Any:
    """Run one trial of a hyperparameter search and return its objective to Hydra's sweeper."""
    from runner.grid.outcomes import extract_objective
    from runner.run import run

    config = to_runner_config(composed, hydra_config.runtime.choices)
    if config.plan:
        _print_plan(config, hydra_config)
        return None
    return extract_objective(run(config, format_config_as_yaml(composed)))[1]


def _print_plan(config: RunnerConfig, hydra_config: HydraConf) -> int:
    from runner.grid.dependencies import require_dependency_done
    from runner.grid.grid_output import print_plan
    from runner.grid.plan import PlanState, plan_job

    planned = plan_job(list(hydra_config.overrides.task), config)
    print_plan([planned])
    require_dependency_done(planned)
    return ConfigError.exit_code if planned.state is PlanState.impossible else 0


if __name__ == "__main__":
    entry()
