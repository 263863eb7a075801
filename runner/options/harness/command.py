"""Command line of `runner-lm-eval`: lm-eval's own command with the model `runner` registered."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from typing import NoReturn

from runner_base import ConfigError, run_command, run_with_exit_code

NAME = "runner-lm-eval"
MODEL = "runner"  # as lm-eval knows it
NEEDED = "needs the package lm_eval: pip install 'runner-llm[lm-eval]'"
HELP = """usage: runner-lm-eval [run|ls|validate] [options]

The tasks of lm-evaluation-harness on the engine of runner. This is lm-eval's command line with one more model,
`runner`, which is the default of --model. --model hf does what lm-eval does without runner.

--model_args of the model runner:
  pretrained=MODEL              a choice of the group model (`runner --help`), a folder, a .gguf file or a hub id;
                                default: embedded
  quantization=CHOICE           none, int8, nf4, ...; also lora=, rope= and generation=; lora= also takes a path;
                                a .gguf file is read by quantization=gguf, which need not be given
  quantization.double_quant=.., rope.factor=.., ...      a key of that choice
  dtype=.., device=.., revision=.., threads=.., ...      a key of the group model

examples:
  runner-lm-eval --tasks arc_easy --limit 20
  runner-lm-eval --model_args pretrained=FILE.gguf --tasks hellaswag
  runner-lm-eval --model_args pretrained=FOLDER,quantization=nf4 --tasks arc_easy,gsm8k --output_path nf4 --log_samples
  runner-lm-eval --model_args pretrained=OWNER/MODEL,lora=ADAPTER,rope=yarn,rope.factor=4 --tasks gsm8k
  runner-lm-eval ls tasks
  runner-compare --lm-eval none nf4        which differences between two folders of --output_path are real

`runner-lm-eval run --help` lists all options of an evaluation.
"""
REPLACEMENTS = (  # what lm-eval's help says of itself, and what is true of this command
    (re.compile(r"\blm-eval(?= |')"), NAME),
    (re.compile(r"\(default: hf\)"), f"(default: {MODEL})"),
    (
        re.compile(r"--model hf --model_args pretrained=\S+"),
        f"--model {MODEL} --model_args pretrained=embedded",
    ),
    (re.compile(r"--model hf\b"), f"--model {MODEL}"),
)


def entry() -> NoReturn:
    """Run lm-eval as the console script `runner-lm-eval`. Exits with 0 when done, or 2 for invalid input."""
    run_command(NAME, lambda: main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run lm-eval with these command-line arguments and return the exit code."""
    return run_with_exit_code(NAME, lambda: _run_lm_eval_or_help(arguments))


def _run_lm_eval_or_help(arguments: list[str]) -> None:
    if arguments in ([], ["-h"], ["--help"]):
        print(HELP, end="")
        return
    asks_help = bool({"-h", "--help"} & {*arguments})
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed) if asks_help else contextlib.nullcontext():
            _run_lm_eval(arguments)
    finally:
        print(adapt_lm_eval_help_text(printed.getvalue()), end="")


def adapt_lm_eval_help_text(lm_eval_help: str) -> str:
    """Adapt lm-eval's help text: replace its command name, default model and examples by those of
    `runner-lm-eval`.
    """
    for pattern, replacement in REPLACEMENTS:
        lm_eval_help = pattern.sub(replacement, lm_eval_help)
    return lm_eval_help


def _run_lm_eval(arguments: list[str]) -> None:
    try:
        command = importlib.import_module("lm_eval.__main__")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lm_eval":
            raise
        raise ConfigError(f"{NAME} {NEEDED}", code="needs_package") from error
    register_model_with_lm_eval()
    before = sys.argv
    sys.argv = [NAME, *add_default_model_argument(arguments)]  # lm-eval reads them there
    try:
        command.cli_evaluate()
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    finally:
        sys.argv = before


def add_default_model_argument(arguments: list[str]) -> list[str]:
    evaluates = arguments[:1] == ["run"] or (arguments[:1] != [] and arguments[0].startswith("-"))
    names_model = any(word in ("--model", "-M") or word.startswith("--model=") for word in arguments)
    asks_help = {"-h", "--help"} & {*arguments}
    if not evaluates or names_model or asks_help or "--config" in arguments or "-C" in arguments:
        return arguments
    return [*arguments, "--model", MODEL]


def register_model_with_lm_eval() -> None:
    """Register the model `runner` with lm-eval unless it is registered already."""
    from lm_eval.api.registry import model_registry

    from runner.options.harness.model import EngineModel

    if MODEL not in model_registry:
        model_registry.register(MODEL)(EngineModel)
