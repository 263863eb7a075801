"""The command line of `runner-advise`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from runner.config.compose import compose
from runner.config.explained import explain
from runner.config.hydra import to_config
from runner.config.plain_text import FILES, quote_texts
from runner.config.root import RunnerConfig
from runner.config.variables import variables_as_overrides
from runner.estimates.fit import PROCESS_MIB
from runner.estimates.speed import EstimateBasis
from runner.grid.model_list import ITS_KEYS, listed
from runner.options.advise.advice import MAX_RECOMMENDED, Advice, advise
from runner.options.advise.candidates import COSTS, Candidate, Compose, UserLimits
from runner.options.advise.gains import gains_in_words
from runner.options.advise.machines import Machine, machine_of
from runner.options.advise.ranking import TIGHT, UNKNOWN
from runner.render.notes import render_notes
from runner_base import ConfigError, JobFailed, clock, exit_code_of, machine, plain, run_entry, say
from runner_base.command_line import CommandParser

NAME = "runner-advise"
PARTS = "parts as predicted, not all at their peak at once"


def entry() -> NoReturn:
    """Console script: print the recommendations and exit, 0 done, 1 nothing meets the limits, 2
    wrong input."""
    run_entry(NAME, lambda: main(sys.argv[1:]), message_of)


def message_of(error: Exception) -> str | None:
    """Return the one message for an error that a user can cause, None for a bug."""
    return explain(error)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""

    def work() -> int:
        return _advise(parser().parse_intermixed_args(arguments))

    return exit_code_of(NAME, work, message_of)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    about = (
        "Recommend settings for a model, a machine and limits: at most five, best first, with their commands."
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
        "overrides", nargs="*", metavar="KEY=VALUE", help="model=..., and other overrides of a job"
    )
    add = arguments.add_argument_group("limits").add_argument
    add(
        "--memory-gib",
        type=float,
        metavar="N",
        help="limit of the process, on the model's device (default: all free memory)",
    )
    add("--seconds-per-question", type=float, metavar="N", help="limit, averaged over a whole job")
    add(
        "--mix",
        metavar="LIMIT",
        help="give each layer a format of quantization=A,B,... (default: nf4,int8,none), so that the model fits and "
        "loses least: 'weight_mib<60' limits the weights, 'model_mib<60' also KV cache and activations; measures here",
    )
    add(
        "--by-block",
        action="store_true",
        help="of --mix: one format for all layers of a block, which is measured sooner",
    )
    add = arguments.add_argument_group("machine").add_argument
    add(
        "--machine",
        metavar="NAME|FILE",
        help="laptop_8gb, workstation_24gb, gpu_80gb, or a YAML file (default: here)",
    )
    add(
        "--quick",
        action="store_true",
        help="do not time anything: use only recorded jobs and earlier calibrations",
    )
    add = arguments.add_argument_group("output").add_argument
    add("--json", action="store_true", help="one JSON object")
    add("--run", action="store_true", help="run the recommended jobs as one grid")
    return arguments


def _advise(options: argparse.Namespace) -> int:
    for key, value in (
        ("--memory-gib", options.memory_gib),
        ("--seconds-per-question", options.seconds_per_question),
    ):
        if value is not None and not value > 0:
            raise ConfigError("must be more than 0", key=key, value=f"{value:g}", code="bad_value")
    described = machine_of(options.machine) if options.machine else None
    if described is not None and options.run:
        raise ConfigError(
            f"--run --machine {described.name}: a described machine cannot run jobs", code="conflict"
        )
    for word in options.overrides:
        if "=" not in word:
            raise ConfigError(
                "not a valid override: write KEY=VALUE or GROUP=CHOICE", key=word, code="bad_value"
            )
    overrides = quote_texts(options.overrides)
    overrides = [*variables_as_overrides(overrides), *overrides]

    def checked(overrides: list[str]) -> RunnerConfig:
        return to_config(*compose(overrides))

    if options.mix is not None:
        return _advise_mix(options, overrides, checked)
    wanted = _wanted(overrides)
    memory_mib = None if options.memory_gib is None else 1024 * options.memory_gib
    limits = UserLimits(memory_mib, options.seconds_per_question)
    output_dir = Path(checked(wanted[0]).output_dir).expanduser().absolute()
    advice = advise(wanted, checked, limits, described, output_dir, not options.quick, say)
    if options.json:
        print(json.dumps(_as_data(advice, described), ensure_ascii=False))
    else:
        show(advice, described, limits)
    if not advice.chosen:
        raise JobFailed("no configuration meets these limits, see above", code="not_found")
    if options.run:
        from runner.options.advise.running import run

        run(advice)
    return 0


def _advise_mix(options: argparse.Namespace, overrides: list[str], compose: Compose) -> int:
    """Choose a format for each layer."""
    from runner.options.advise import mix_check  # imports numpy and what runs jobs
    from runner.options.advise.mix import FORMATS, Limit

    for option in ("memory_gib", "seconds_per_question", "machine", "run"):
        if getattr(options, option):
            raise ConfigError(
                f"--mix runs jobs here to its own limit: leave --{option.replace('_', '-')} out",
                code="conflict",
            )
    limit = Limit.read(options.mix)
    given = [word.partition("=")[2] for word in overrides if word.startswith("quantization=")]
    others = [word for word in overrides if not word.startswith("quantization=")]
    advice = mix_check.advise(limit, others, (given or [FORMATS])[-1].split(","), options.by_block, compose)
    if options.json:
        print(json.dumps(mix_check.as_data(advice), ensure_ascii=False))
    else:
        mix_check.show(advice)
    return 0


def _wanted(overrides: list[str]) -> list[list[str]]:
    """Return the overrides of the model, or those of each file that `files=` names."""
    places = [word.partition("=")[2] for word in overrides if word.startswith(f"{FILES}=")]
    others = [word for word in overrides if not word.startswith(f"{FILES}=")]
    if not places:
        return [others]
    if own := [word for word in others if word.partition("=")[0] in ITS_KEYS]:
        raise ConfigError(
            f"each of {FILES}={places[-1]} sets that itself: leave it out", key=own[0], code="conflict"
        )
    models, left_out = listed(places[-1])
    for text in render_notes(left_out):
        say(text)
    for model in models:
        if model.problem:
            say(f"cannot be read: {model.name}: {model.problem}")
    readable = [[*model.overrides, *others] for model in models if not model.problem]
    if not readable:
        raise ConfigError("none of its models can be read", key=FILES, value=places[-1], code="unreadable")
    return readable


def show(advice: Advice, described: Machine | None, limits: UserLimits) -> None:
    """Print the recommendations, and one line for each rejected candidate."""
    machine_name = machine.name() if described is None else f"{described.name}, as described"
    allowed = f"at most {limits.memory_mib:,.0f} MiB" if limits.memory_mib else ""
    allowed += f"{', ' if allowed else ''}{limits.seconds:g} s a question" if limits.seconds else ""
    print(plain(f"on {machine_name}{f'; {allowed}' if allowed else ''}"))
    for number, candidate in enumerate(advice.chosen, start=1):
        print(plain(f"\n{number}. {command(candidate)}"))
        is_tight = candidate.known_mib > TIGHT * candidate.allowed_mib
        tight = f"; tight: {candidate.allowed_mib:,.0f} are allowed" if is_tight else ""
        peak = f"{candidate.memory_mib:,.0f} MiB at the peak, predicted"
        if candidate.measured_mib is not None:
            peak = (
                f"{candidate.measured_mib:,.0f} MiB at the peak, recorded here "
                f"({candidate.memory_mib:,.0f} predicted)"
            )
        print(plain(f"   memory    {peak}; {PARTS}: {_parts(candidate)}{tight}"))
        print(plain(f"   speed     {_speed(candidate)}"))
        for line in gains_in_words(candidate.gains, candidate.rows):
            print(plain(f"   guesses   {line}"))
        print(plain(f"   answers   {_answers(candidate)}"))
        for note in candidate.notes:
            print(plain(f"   note      {note}"))
        if number < len(advice.chosen):
            print(plain(f"   order     {candidate.before_next}"))
    if advice.rejected:
        print()
    for candidate in advice.rejected:
        print(plain(f"not {candidate.name} quantization={candidate.quantization}: {candidate.problem}"))


def command(candidate: Candidate) -> str:
    """Return the command that runs some settings."""
    return shlex.join(["runner", *candidate.overrides])


def _parts(candidate: Candidate) -> str:
    assert candidate.fit is not None
    parts = candidate.fit.predicted
    in_file = parts.weight_mib - parts.resident_weight_mib
    resident = f" of {parts.weight_mib:,.0f} (the rest stays in the file)" if in_file >= 1 else ""
    return (
        f"weights {parts.resident_weight_mib:,.0f}{resident}, KV cache {parts.kv_cache_mib:,.0f}, activations "
        f"{parts.activation_mib:,.0f}, the process itself {PROCESS_MIB + parts.runtime_mib:,.0f}"
    )


def _speed(candidate: Candidate) -> str:
    each_s = candidate.each_s
    if candidate.time is None or each_s is None:
        return "unknown: nothing is recorded, and this model was not timed"
    basis = {
        EstimateBasis.recorded: "recorded here",
        EstimateBasis.calibrated: "calibrated here",
        EstimateBasis.guessed: "guessed from bandwidth and matrix rate",
    }
    condition = (
        " if all answers have the maximum length"
        if candidate.time.is_upper_bound and candidate.time.source is not EstimateBasis.recorded
        else ""
    )
    whole = f"the job {clock(candidate.time.seconds)}"
    return (
        f"{each_s:,.2f} s a question{condition}, {whole}, ± {candidate.time.spread:.0%}: "
        f"{basis[candidate.time.source]}"
    )


def _answers(candidate: Candidate) -> str:
    if (known := candidate.accuracy) is not None:
        known_words = f"accuracy {known.described} recorded ({known.job_id})"
    else:
        known_words = UNKNOWN
    if (close := candidate.closeness) is not None:
        known_words += f"; {close.described} recorded ({close.job_id})"
    elif known is None:
        known_words += f"; {COSTS.get(candidate.quantization, 'the loss by this number format is unknown')}"
    return known_words if candidate.is_asked else f"another, smaller model; {known_words}"


def _as_data(advice: Advice, described: Machine | None) -> dict[str, Any]:
    """Return everything as plain data."""

    def data(candidate: Candidate) -> dict[str, Any]:
        parts = candidate.fit.predicted if candidate.fit else None
        memory = parts and {
            "peak_mib": candidate.memory_mib,
            "recorded_peak_mib": candidate.measured_mib,
            "weight_mib": parts.weight_mib,
            "kv_cache_mib": parts.kv_cache_mib,
            "activation_mib": parts.activation_mib,
        }
        time = candidate.time and {
            "seconds_per_question": candidate.each_s,
            "job_seconds": candidate.time.seconds,
            "spread": candidate.time.spread,
            "source": candidate.time.source.value,
        }
        known = candidate.accuracy
        accuracy = known and {
            "value": known.accuracy,
            "low": known.interval[0],
            "high": known.interval[1],
            "n": known.n,
            "questions": known.asked,
            "job_id": known.job_id,
        }
        close = candidate.closeness
        divergence = close and {
            "kl_nats_per_token": close.kl,
            "low": close.low,
            "high": close.high,
            "n": close.texts,
            "reference": close.reference,
            "job_id": close.job_id,
        }
        answers = {"answers": _answers(candidate), "accuracy": accuracy, "divergence": divergence}
        guesses = [asdict(gain) | {"pays": gain.pays} for gain in candidate.gains]
        judged = {
            **answers,
            "guesses": guesses,
            "notes": candidate.notes,
            "before_next": candidate.before_next or None,
        }
        rest = {"why_not": candidate.problem} if candidate.problem else judged
        return {
            "overrides": candidate.overrides,
            "command": command(candidate),
            "memory": memory,
            "time": time,
            **rest,
        }

    return {
        "machine": described.name if described else machine.name(),
        "recommended": [data(candidate) for candidate in advice.chosen],
        "out": [data(candidate) for candidate in advice.rejected],
        "most": MAX_RECOMMENDED,
    }
