"""The command line of `runner-lm-eval`: lm-eval's own, which finds the model `runner` registered."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from runner.core.errors import ConfigError, exit_code_of, run_entry

NAME = "runner-lm-eval"
MODEL = "runner"  # as lm-eval knows it
NEEDED = "needs the package lm_eval: pip install 'runner[lm-eval]'"


def entry() -> NoReturn:
    """Console script: what lm-eval prints, and 0 done, 2 wrong input."""
    run_entry(NAME, lambda: main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run lm-eval's command with these arguments; returns the exit code."""
    return exit_code_of(NAME, lambda: _hand_over(arguments))


def _hand_over(arguments: list[str]) -> None:
    try:
        command = importlib.import_module("lm_eval.__main__")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lm_eval":
            raise
        raise ConfigError(f"{NAME} {NEEDED}") from error
    register()
    before = sys.argv
    sys.argv = [NAME, *with_model(arguments)]  # lm-eval reads them there
    try:
        command.cli_evaluate()
    except SystemExit as ended:
        if ended.code not in (None, 0):
            raise
    finally:
        sys.argv = before


def with_model(arguments: list[str]) -> list[str]:
    """Let an evaluation that names no model be one of ours: lm-eval's own default is another."""
    evaluates = arguments[:1] == ["run"] or (arguments[:1] != [] and arguments[0].startswith("-"))
    named = any(word in ("--model", "-M") or word.startswith("--model=") for word in arguments)
    asks_help = {"-h", "--help"} & {*arguments}
    if not evaluates or named or asks_help or "--config" in arguments or "-C" in arguments:
        return arguments
    return [*arguments, "--model", MODEL]


def register() -> None:
    """Let lm-eval know the model; once is enough."""
    from lm_eval.api.registry import model_registry

    from runner.harness.model import EngineModel

    if MODEL not in model_registry:
        model_registry.register(MODEL)(EngineModel)
