"""Command line of `runner-advise`, which recommends settings for a model and a machine."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from runner.config.compose import compose_job
from runner.config.error_messages import explain_error
from runner.config.hydra import to_runner_config
from runner.config.override_quoting import FILES, quote_override_values
from runner.config.renamed_keys import rename_old_keys_in_overrides
from runner.config.root import RunnerConfig
from runner.config.variables import read_variable_overrides
from runner.grid.model_list import ITS_KEYS, find_models
from runner.options.advise.advice import recommend_settings
from runner.options.advise.candidates import Compose, UserLimits
from runner.options.advise.machines import load_machine
from runner.options.advise.render.recommendations import print_recommendations, recommendations_to_dict
from runner.render.notes import render_notes
from runner_base import ConfigError, JobFailed, print_message, run_command, run_with_exit_code
from runner_base.command_line import CommandParser

NAME = "runner-advise"


def entry() -> NoReturn:
    """Run the console script `runner-advise`.

    Exit code 0: recommendations were printed. 1: no settings meet the limits. 2: invalid input.
    """
    run_command(NAME, lambda: main(sys.argv[1:]), describe_user_error)


def describe_user_error(error: Exception) -> str | None:
    """Return the message of an error that the user can fix, or None if the exception is a bug."""
    return explain_error(error)


def main(arguments: list[str]) -> int:
    """Run `runner-advise` with these arguments and return the exit code."""

    def work() -> int:
        return _run_recommendation(create_parser().parse_intermixed_args(arguments))

    return run_with_exit_code(NAME, work, describe_user_error)


def create_parser() -> argparse.ArgumentParser:
    about = (
        "Recommend up to five configurations for a model, a machine and limits. The best "
        "comes first, with its command."
    )
    epilog = """examples:
  runner-advise model=qwen25_15b_instruct --memory-gib 8 --seconds-per-question 20
  runner-advise model=qwen25_7b_instruct --machine laptop_8gb
  runner-advise model=auto model.name=FOLDER task.limit=50 --run
  runner-advise files=FOLDER --memory-gib 8
  runner-advise model=local model.name=FOLDER --mix 'weight_mib<120' quantization=nf4,int8,none"""
    arguments = CommandParser(
        NAME,
        description=about,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    arguments.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the job, such as model=NAME"
    )
    add = arguments.add_argument_group("limits").add_argument
    add(
        "--memory-gib",
        type=float,
        metavar="N",
        help="memory limit of the process on the model's device (default: all free memory)",
    )
    add(
        "--seconds-per-question",
        type=float,
        metavar="N",
        help="time limit per question, as the mean over the whole job",
    )
    add(
        "--mix",
        metavar="LIMIT",
        help=(
            "choose one format per layer from quantization=A,B,... (default: nf4,int8,none): the "
            "model meets the limit with the smallest loss. 'weight_mib<60' limits the weights, "
            "'model_mib<60' also KV cache and activations. Runs measurements on this machine"
        ),
    )
    add(
        "--by-block",
        action="store_true",
        help="with --mix: choose one format per transformer block, not per layer (faster)",
    )
    add = arguments.add_argument_group("machine").add_argument
    add(
        "--machine",
        metavar="NAME|FILE",
        help="laptop_8gb, workstation_24gb, gpu_80gb, or a YAML file (default: this machine)",
    )
    add(
        "--quick",
        action="store_true",
        help="measure no speeds: use only recorded jobs and earlier calibrations",
    )
    add = arguments.add_argument_group("output").add_argument
    add("--json", action="store_true", help="one JSON object")
    add("--run", action="store_true", help="run the recommended configurations as one grid")
    return arguments


def _format_run_command(options: argparse.Namespace) -> str | None:
    """Return the shell command that runs the recommended jobs, or None with --run or --machine."""
    if options.run or options.machine:
        return None
    words = [NAME, *options.overrides, "--run"]
    for key, value in (
        ("--memory-gib", options.memory_gib),
        ("--seconds-per-question", options.seconds_per_question),
    ):
        words += [key, f"{value:g}"] if value is not None else []
    return shlex.join(words)


def _run_recommendation(options: argparse.Namespace) -> int:
    for key, value in (
        ("--memory-gib", options.memory_gib),
        ("--seconds-per-question", options.seconds_per_question),
    ):
        if value is not None and not value > 0:
            raise ConfigError("must be more than 0", key=key, value=f"{value:g}", code="bad_value")
    described = load_machine(options.machine) if options.machine else None
    if described is not None and options.run:
        raise ConfigError(
            f"--run --machine {described.name}: jobs run on this machine only. Omit --run or --machine",
            code="conflict",
        )
    for word in options.overrides:
        if "=" not in word:
            raise ConfigError(
                "not a valid override. Write KEY=VALUE or GROUP=CHOICE", key=word, code="bad_value"
            )
    overrides = quote_override_values(rename_old_keys_in_overrides(options.overrides))
    overrides = [*read_variable_overrides(overrides), *overrides]

    def checked(overrides: list[str]) -> RunnerConfig:
        return to_runner_config(*compose_job(overrides))

    if options.mix is not None:
        return _recommend_quantization_per_layer(options, overrides, checked)
    wanted = _build_overrides_per_model(overrides)
    memory_mib = None if options.memory_gib is None else 1024 * options.memory_gib
    limits = UserLimits(memory_mib, options.seconds_per_question)
    output_dir = Path(checked(wanted[0]).output_dir).expanduser().absolute()
    advice = recommend_settings(
        wanted, checked, limits, described, output_dir, not options.quick, print_message
    )
    if options.json:
        print(json.dumps(recommendations_to_dict(advice, described), ensure_ascii=False))
    else:
        print_recommendations(advice, described, limits, _format_run_command(options))
    if not advice.chosen:
        raise JobFailed(
            "no configuration meets these limits, for the reasons above. Raise a limit", code="not_found"
        )
    if options.run:
        from runner.options.advise.job_grid import run_recommended_jobs

        run_recommended_jobs(advice)
    return 0


def _recommend_quantization_per_layer(
    options: argparse.Namespace, overrides: list[str], compose: Compose
) -> int:
    """Run `runner-advise --mix`, which chooses a quantization format for each layer. Returns the exit
    code.
    """
    from runner.options.advise import mix_check  # imports numpy and what runs jobs
    from runner.options.advise.mix import FORMATS, SizeLimit
    from runner.options.advise.render import mix as mix_text

    for option in ("memory_gib", "seconds_per_question", "machine", "run"):
        if getattr(options, option):
            raise ConfigError(
                (
                    f"--mix has its own limit and does not use --{option.replace('_', '-')}. Omit "
                    f"--{option.replace('_', '-')}"
                ),
                code="conflict",
            )
    limit = SizeLimit.parse(options.mix)
    given = [word.partition("=")[2] for word in overrides if word.startswith("quantization=")]
    others = [word for word in overrides if not word.startswith("quantization=")]
    advice = mix_check.recommend_and_verify_layer_formats(
        limit, others, (given or [FORMATS])[-1].split(","), options.by_block, compose
    )
    if options.json:
        print(json.dumps(mix_text.convert_mix_advice_to_dict(advice), ensure_ascii=False))
    else:
        mix_text.print_mix_advice(advice)
    return 0


def _build_overrides_per_model(overrides: list[str]) -> list[list[str]]:
    """Return one list of overrides per model. Each file that `files=` names is a model."""
    places = [word.partition("=")[2] for word in overrides if word.startswith(f"{FILES}=")]
    others = [word for word in overrides if not word.startswith(f"{FILES}=")]
    if not places:
        return [others]
    if own := [word for word in others if word.partition("=")[0] in ITS_KEYS]:
        raise ConfigError(
            f"{FILES}=... already sets this key for each model. Remove the key", key=own[0], code="conflict"
        )
    models, left_out = find_models(places[-1])
    for text in render_notes(left_out):
        print_message(text)
    for model in models:
        if model.problem:
            print_message(f"cannot be read: {model.name}: {model.problem}")
    readable = [[*model.overrides, *others] for model in models if not model.problem]
    if not readable:
        raise ConfigError(
            "none of the models in this folder can be read", key=FILES, value=places[-1], code="unreadable"
        )
    return readable
