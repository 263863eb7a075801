"""The command line of `runner-advise`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from runner.advise.candidates import COSTS, MOST, Advice, Candidate, UserLimits, advise
from runner.advise.machines import Machine, machine_of
from runner.compat.variable_overrides import variables_as_overrides
from runner.config.compose import compose
from runner.config.hydra import explain, to_config
from runner.config.plain_text import quote_texts
from runner.config.root import RunnerConfig
from runner.core import machine
from runner.core.console import plain, say
from runner.core.errors import ConfigError, JobFailed, exit_code_of, run_entry
from runner.estimates.fit import PROCESS_MIB
from runner.estimates.jobs import clock
from runner.estimates.speed import EstimateBasis

NAME = "runner-advise"
TIGHT = 0.9  # of what is allowed


def entry() -> NoReturn:
    """Console script: print what is recommended and exit, 0 done, 1 nothing keeps to the limits, 2 wrong input."""
    run_entry(NAME, lambda: main(sys.argv[1:]), message_of)


def message_of(error: Exception) -> str | None:
    """Return the one message for an error that a user can cause, None for a bug."""
    return explain(error)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_intermixed_args(arguments)
    return exit_code_of(NAME, lambda: _advise(options), message_of)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    about = "This model, this machine, these limits: which settings? At most five, the best first, with their commands."
    epilog = """examples:
  runner-advise model=qwen25_15b_instruct --memory-gib 8 --seconds-per-question 20
  runner-advise model=qwen25_7b_instruct --machine laptop_8gb
  runner-advise model=auto model.name=FOLDER task.limit=50 --run"""
    it = argparse.ArgumentParser(
        NAME, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    it.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="model=..., and whatever else a job is given")
    add = it.add_argument_group("limits").add_argument
    add("--memory-gib", type=float, metavar="N", help="of the process, where the model is (default: what is free)")
    add("--seconds-per-question", type=float, metavar="N", help="on the average of a whole job")
    add = it.add_argument_group("where").add_argument
    add("--machine", metavar="NAME|FILE", help="laptop_8gb, workstation_24gb, gpu_80gb, or a YAML file (default: here)")
    add("--quick", action="store_true", help="time nothing: only what is recorded or was timed before")
    add = it.add_argument_group("what comes out").add_argument
    add("--json", action="store_true", help="one JSON object")
    add("--run", action="store_true", help="start what is recommended, as one grid")
    return it


def _advise(options: argparse.Namespace) -> int:
    for key, value in (("--memory-gib", options.memory_gib), ("--seconds-per-question", options.seconds_per_question)):
        if value is not None and not value > 0:
            raise ConfigError(f"{key} {value:g}: must be more than 0")
    described = machine_of(options.machine) if options.machine else None
    if described is not None and options.run:
        raise ConfigError(f"--run --machine {described.name}: a machine that is only described runs nothing")
    for word in options.overrides:
        if "=" not in word:
            raise ConfigError(f"{word}: not a valid override: write KEY=VALUE or GROUP=CHOICE")
    asked = quote_texts(options.overrides)
    asked = [*variables_as_overrides(asked), *asked]

    def checked(overrides: list[str]) -> RunnerConfig:
        return to_config(*compose(overrides))

    memory_mib = None if options.memory_gib is None else 1024 * options.memory_gib
    limits = UserLimits(memory_mib, options.seconds_per_question)
    output_dir = Path(checked(asked).output_dir).expanduser().absolute()
    found = advise(asked, checked, limits, described, output_dir, not options.quick, say)
    if options.json:
        print(json.dumps(_as_data(found, described), ensure_ascii=False))
    else:
        show(found, described, limits)
    if not found.chosen:
        raise JobFailed("no configuration meets these limits, see above")
    if options.run:
        from runner.advise.running import run

        run(found)
    return 0


def show(found: Advice, described: Machine | None, limits: UserLimits) -> None:
    """Print the recommendations, and in a line each why the others are none."""
    where = machine.name() if described is None else f"{described.name}, as it is described"
    allowed = f"at most {limits.memory_mib:,.0f} MiB" if limits.memory_mib else ""
    allowed += f"{', ' if allowed else ''}{limits.seconds:g} s a question" if limits.seconds else ""
    print(plain(f"on {where}{f'; {allowed}' if allowed else ''}"))
    for number, it in enumerate(found.chosen, start=1):
        print(plain(f"\n{number}. {command(it)}"))
        tight = f"; tight: {it.allowed_mib:,.0f} are allowed" if it.memory_mib > TIGHT * it.allowed_mib else ""
        print(plain(f"   memory    {it.memory_mib:,.0f} MiB at the peak, predicted; at most {_parts(it)}{tight}"))
        print(plain(f"   speed     {_speed(it)}"))
        print(plain(f"   answers   {_answers(it)}"))
    if found.out:
        print()
    for it in found.out:
        print(plain(f"not {it.model} quantization={it.quantization}: {it.problem}"))


def command(it: Candidate) -> str:
    """Return the command of some settings, to paste."""
    return shlex.join(["runner", *it.overrides])


def _parts(it: Candidate) -> str:
    assert it.fit is not None
    parts = it.fit.predicted
    in_file = parts.weight_mib - parts.resident_weight_mib
    resident = f" of {parts.weight_mib:,.0f} (the rest stays in the file)" if in_file >= 1 else ""
    return (
        f"weights {parts.resident_weight_mib:,.0f}{resident}, KV cache {parts.kv_cache_mib:,.0f}, activations "
        f"{parts.activation_mib:,.0f}, the process itself {PROCESS_MIB + parts.runtime_mib:,.0f}"
    )


def _speed(it: Candidate) -> str:
    each_s = it.each_s
    if it.time is None or each_s is None:
        return "not known: nothing is recorded, and this model was not timed"
    rests = {
        EstimateBasis.recorded: "recorded here",
        EstimateBasis.calibrated: "calibrated here",
        EstimateBasis.guessed: "guessed from bandwidth and matrix rate",
    }
    most = (
        " where answers are as long as they may be"
        if it.time.most and it.time.source is not EstimateBasis.recorded
        else ""
    )
    whole = f"the job {clock(it.time.seconds)}"
    return f"{each_s:,.2f} s a question{most}, {whole}, ± {it.time.spread:.0%}: {rests[it.time.source]}"


def _answers(it: Candidate) -> str:
    known = it.accuracy or COSTS.get(it.quantization, "what this number format costs is not known here")
    return known if it.is_asked else f"another, smaller model: its answers are others; {known}"


def _as_data(found: Advice, described: Machine | None) -> dict[str, Any]:
    """Return everything as plain data."""

    def data(it: Candidate) -> dict[str, Any]:
        parts = it.fit.predicted if it.fit else None
        memory = parts and {
            "peak_mib": it.memory_mib,
            "weight_mib": parts.weight_mib,
            "kv_cache_mib": parts.kv_cache_mib,
            "activation_mib": parts.activation_mib,
        }
        time = it.time and {
            "seconds_per_question": it.each_s,
            "job_seconds": it.time.seconds,
            "spread": it.time.spread,
            "source": it.time.source.value,
        }
        rest = {"why_not": it.problem} if it.problem else {"answers": _answers(it)}
        return {"overrides": it.overrides, "command": command(it), "memory": memory, "time": time, **rest}

    return {
        "machine": described.name if described else machine.name(),
        "recommended": [data(it) for it in found.chosen],
        "out": [data(it) for it in found.out],
        "most": MOST,
    }
