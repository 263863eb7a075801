"""`python -m runner`, also installed as `runner`: compose the config, run the job, show the result,
exit."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from typing import Any, NoReturn

from runner_base import signals

if __name__ == "__main__" or os.path.basename(sys.argv[0]) == "runner":
    signals.exit_at_signals()  # the imports that follow take most of a second

import hydra
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.config import runner_hydra
from runner.config.groups import GROUPS
from runner.config.hydra import as_yaml, to_config
from runner.config.hydra_versions import as_in_main
from runner.config.mistyped import check_words
from runner.config.plain_text import as_sweeper_keys, quote_texts
from runner.config.root import RunnerConfig
from runner.config.variables import variables_as_overrides
from runner.core.typed import typed
from runner.render.starts import HOW_TO_RESUME, STOPPING
from runner_base import ConfigError, exit_code_of, run_entry, say
from runner_base.console import ForPeople
from runner_base.errors import exits_as_job_failed

WANTS_TRACEBACK = "HYDRA_FULL_ERROR" in os.environ  # for debugging the runner itself

exit_codes: list[int] = []  # of a single job; a grid raises an error with its own


def entry() -> NoReturn:
    """Run the command, and turn every error that a user can cause into one message and an exit
    code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises exceptions instead of printing them
    signals.install_handlers(tell=lambda: say(STOPPING))
    run_entry("error", _main, message_of, HOW_TO_RESUME)


def _main() -> int:
    exit_codes[:] = [0]  # Hydra drops what main returns
    with as_in_main(), typed(sys.argv[1:]):
        sys.argv[1:] = arrange(sys.argv[1:])
        runner_hydra.run(main)
    return max(exit_codes)


def arrange(arguments: list[str]) -> list[str]:
    """Return the command line as Hydra accepts it: all overrides together, with their texts
    quoted."""
    parser = get_args_parser()
    for action in parser._actions:
        if action.dest == "version" and any(word.startswith("--v") for word in arguments):  # also abbreviated
            action.version = _versions()  # type: ignore[attr-defined]
    known, unknown = parser.parse_known_args(arguments)
    options_known = [name for action in parser._actions for name in action.option_strings]
    check_words(arguments, unknown, options_known)
    overrides = known.overrides + [word for word in unknown if not word.startswith("-")]
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    quoted = quote_texts(as_sweeper_keys(overrides))
    is_run = not (known.help or known.hydra_help or known.info or known.shell_completion)
    from_variables = (
        variables_as_overrides(quoted, known.config_name or "config", known.config_dir) if is_run else []
    )
    return [*from_variables, *quoted, *options]


def _versions() -> str:
    """Return the versions as --version prints them; a program that runs from a checkout may not be
    installed."""
    # takes a tenth of the time of a quick command
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("runner-llm")
    except PackageNotFoundError:
        own = "(not installed)"
    return f"runner {own} (Hydra {hydra.__version__})"


def message_of(error: Exception) -> str | None:
    """Return the message for an error that a user can cause, None for a bug."""
    if WANTS_TRACEBACK:
        return None
    from runner.config.explained import explain  # with all that a message names

    return explain(error)


def main(composed: DictConfig) -> Any:
    """Run the composed job: a single one, or this process's job of a grid, whose outcome is
    returned."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is not RunMode.MULTIRUN:  # Hydra would print an error in its own way
        with_exits = exits_as_job_failed()(run_single)
        exit_codes.append(exit_code_of("error", lambda: with_exits(composed, hydra_config), message_of))
        return None
    if "GridSweeper" in str(hydra_config.sweeper.get("_target_")):
        from runner.grid.other_launchers import run_launched

        return run_launched(composed, hydra_config)
    return run_for_search(composed, hydra_config)


def run_single(composed: DictConfig, hydra_config: HydraConf) -> int:
    """Run one job, print its result and return the exit code."""
    from runner.report import show
    from runner.run import run, run_as_torchrun_worker
    from runner.tracking.stores import store_of

    config = to_config(composed, hydra_config.runtime.choices)
    if files := hydra_config.sweeper.get("files"):
        raise ConfigError(
            f"files={files} makes a grid of the models in it: add -m, or run the study which_file",
            code="missing",
        )
    if config.plan:
        return _print_plan(config, hydra_config)
    if (
        code := run_as_torchrun_worker(config)
    ) is not None:  # another process has the job, and this one works for it
        return code
    has_table = config.print.is_table
    # the table of an endless task comes too late
    ForPeople.table_follows = has_table and not config.task.is_endless
    record = run(config, as_yaml(composed))
    choices = {group: hydra_config.runtime.choices[group] for group in GROUPS if group != "tracking"}
    only_answers = config.task.answers_on_stdout and has_table and not sys.stdout.isatty()
    with redirect_stdout(sys.stderr if only_answers else sys.stdout):
        show(record, choices, config.print, store_of(config))
    if record.error:  # the task ran to its end and found a problem
        summary, _, details = record.error.partition(":\n")  # the table has the details
        say(f"error: {summary if has_table and details else record.error}")
        return 1
    return 0


def run_for_search(composed: DictConfig, hydra_config: HydraConf) -> Any:
    """Run one job of another package's sweeper; return the number that it optimizes."""
    from runner.grid.outcomes import objective
    from runner.run import run

    config = to_config(composed, hydra_config.runtime.choices)
    if config.plan:
        _print_plan(config, hydra_config)
        return None
    return objective(run(config, as_yaml(composed)))[1]


def _print_plan(config: RunnerConfig, hydra_config: HydraConf) -> int:
    from runner.grid.named import check_named
    from runner.grid.plan import State, plan_job
    from runner.grid.show import show_plan

    planned = plan_job(list(hydra_config.overrides.task), config)
    show_plan([planned])
    check_named(planned)
    return ConfigError.exit_code if planned.state is State.impossible else 0


if __name__ == "__main__":
    entry()
