"""The command line of `runner-lm-eval`: lm-eval's own, which finds the model `runner` registered."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from typing import NoReturn

from runner.core.errors import ConfigError, exit_code_of, run_entry

NAME = "runner-lm-eval"
MODEL = "runner"  # as lm-eval knows it
NEEDED = "needs the package lm_eval: pip install 'runner[lm-eval]'"
HELP = """usage: runner-lm-eval [run|ls|validate] [options]

The tasks of lm-evaluation-harness on the engine of runner. This is lm-eval's command line with one model more,
`runner`, which an evaluation takes where no --model is given. --model hf does what lm-eval does alone.

--model_args of the model runner:
  pretrained=MODEL              a choice of the group model (`runner --help`), a folder or a hub id; default: embedded
  quantization=CHOICE           none, int8, nf4, ...; also lora=, rope= and generation=; lora= also takes a place
  quantization.double_quant=.., rope.factor=.., ...      a key of that choice
  dtype=.., device=.., revision=.., threads=.., ...      a key of the group model

examples:
  runner-lm-eval --tasks arc_easy --limit 20
  runner-lm-eval --model_args pretrained=FOLDER,quantization=nf4 --tasks arc_easy,gsm8k --output_path nf4 --log_samples
  runner-lm-eval --model_args pretrained=OWNER/MODEL,lora=ADAPTER,rope=yarn,rope.factor=4 --tasks gsm8k
  runner-lm-eval ls tasks
  runner-compare --lm-eval none nf4        which differences between two folders of --output_path are real

`runner-lm-eval run --help` lists all options of an evaluation.
"""
OURS = (  # what lm-eval's own help says of itself, and what is true of this command
    (re.compile(r"\blm-eval(?= |')"), NAME),
    (re.compile(r"\(default: hf\)"), f"(default: {MODEL})"),
    (re.compile(r"--model hf --model_args pretrained=\S+"), f"--model {MODEL} --model_args pretrained=embedded"),
    (re.compile(r"--model hf\b"), f"--model {MODEL}"),
)


def entry() -> NoReturn:
    """Console script: what lm-eval prints, and 0 done, 2 wrong input."""
    run_entry(NAME, lambda: main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run lm-eval's command with these arguments; returns the exit code."""
    return exit_code_of(NAME, lambda: _hand_over(arguments))


def _hand_over(arguments: list[str]) -> None:
    if arguments in ([], ["-h"], ["--help"]):
        print(HELP, end="")
        return
    asks_help = bool({"-h", "--help"} & {*arguments})
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said) if asks_help else contextlib.nullcontext():
            _evaluate(arguments)
    finally:
        print(in_our_words(said.getvalue()), end="")


def in_our_words(text: str) -> str:
    """Return lm-eval's help with this command's name, default model and examples."""
    for theirs, ours in OURS:
        text = theirs.sub(ours, text)
    return text


def _evaluate(arguments: list[str]) -> None:
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
