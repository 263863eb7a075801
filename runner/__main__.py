"""`python -m runner`, also installed as `runner`: compose the config, run the job, show the result, exit."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra

from runner.config.groups import GROUPS
from runner.config.hydra import register, to_config
from runner.config.hydra_errors import explain
from runner.core.errors import ConfigError, RunnerError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from runner.config.root import RunnerConfig

WANTS_TRACE = "HYDRA_FULL_ERROR" in os.environ  # for those who debug the runner itself
HERE = Path(__file__).resolve().parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, or in a checkout


exit_codes: list[int] = [0]  # of the single job; a grid says its own


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(composed: DictConfig) -> Any:
    """Run one composed job and print its result, or why there is none; in a grid, return how it went."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from runner.run import joins, run

    hydra_config = HydraConfig.get()
    in_grid = hydra_config.mode is RunMode.MULTIRUN
    if in_grid and "GridSweeper" in str(hydra_config.sweeper.get("_target_")):
        from runner.grid.other_launchers import serve

        return serve(composed, hydra_config)
    try:
        config = to_config(composed)
        if config.plan:
            _show_plan(config)
            return None
        if not in_grid and (code := joins(config)) is not None:
            exit_codes.append(code)
            return None
        record = run(config, OmegaConf.to_yaml(composed))
    except Exception as error:
        message = explain(error, CONF)
        if message is None or WANTS_TRACE or in_grid:
            raise
        print(f"error: {message}", file=sys.stderr)
        exit_codes.append(exit_code(error))
        return None
    if in_grid:
        from runner.grid.outcome import objective

        return objective(record)
    from runner.report import show

    show(record, {group: hydra_config.runtime.choices[group] for group in GROUPS if group != "tracking"}, config.print)
    if record.error:  # the task has done its work, and what it found is bad news
        print(f"error: {record.error}", file=sys.stderr)
        exit_codes.append(1)
    return None


TEXTS = ("task.prompt", "task.system", "task.instruction")


def plain_texts(arguments: list[str]) -> list[str]:
    """Quote texts for Hydra, so that commas, colons and brackets in a prompt stand for themselves.

    Left alone: what is quoted already, plain words and lists of them, and a grid's arguments, which have a grammar.
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    if "-m" in arguments or "--multirun" in arguments:
        return arguments
    quoted = []
    for argument in arguments:
        key, _, text = argument.partition("=")
        plain = re.fullmatch(r"""[A-Za-z0-9_.,-]*|(['"]).*\1""", text, re.DOTALL)
        if key in TEXTS and not plain:
            text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation either
            argument = f"{key}={QuotedString(text, Quote.single).with_quotes()}"
        quoted.append(argument)
    return quoted


def _show_plan(config: RunnerConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from runner.grid.plan import plan_job
    from runner.grid.table import show_plan

    show_plan([plan_job(list(HydraConfig.get().overrides.task), config)], sys.stdout)


def entry() -> NoReturn:
    """Run, and turn every error that a user can cause into one message and an exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions reach us instead of Hydra's own printing
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # a polite kill is a Ctrl-C
    register()
    sys.argv[1:] = plain_texts(sys.argv[1:])
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: what was done is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = explain(error, CONF)
        if message is None or WANTS_TRACE:
            raise
        print(f"error: {message}", file=sys.stderr)
        exit_codes.append(exit_code(error))
    sys.exit(max(exit_codes))


def exit_code(error: BaseException) -> int:
    """Return 1 when the work failed, 2 when the input was wrong."""
    return error.exit_code if isinstance(error, RunnerError) else ConfigError.exit_code


if __name__ == "__main__":
    entry()
