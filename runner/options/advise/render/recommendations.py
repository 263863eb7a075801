"""The recommendations, as text and as JSON."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

from runner.estimates.fit import PROCESS_MIB
from runner.estimates.speed import EstimateBasis
from runner.options.advise.advice import MAX_RECOMMENDED, Advice
from runner.options.advise.candidates import Candidate, UserLimits
from runner.options.advise.machines import Machine
from runner.options.advise.ranking import TIGHT
from runner.options.advise.render.figures import describe_accuracy, describe_kl
from runner.options.advise.render.gains import describe_gains
from runner.options.advise.render.notes import NOTES
from runner_base import clock, machine, plain
from runner_base.notes import Note, note
from runner_base.render.notes import render_note

PARTS = "parts as predicted, not all at their peak at once"
COSTS = {
    "none": "the model as it is",
    "int8": "int8: no loss in published tests (LLM.int8(), 2022)",
    "nf4": "nf4: little loss in published tests (QLoRA, 2023), more for small models",
}


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
        for line in describe_gains(candidate.gains, candidate.rows):
            print(plain(f"   guesses   {line}"))
        print(plain(f"   answers   {_answers(candidate)}"))
        for line in candidate.notes:
            print(plain(f"   note      {line}"))
        if number < len(advice.chosen):
            print(plain(f"   order     {_text(candidate.before_next)}"))
    if advice.rejected:
        print()
    for candidate in advice.rejected:
        print(
            plain(f"not {candidate.name} quantization={candidate.quantization}: {_text(candidate.problem)}")
        )


def _text(reason: Note | None) -> str | None:
    return None if reason is None else render_note(reason, NOTES)


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
        known_words = f"accuracy {describe_accuracy(known)} recorded ({known.job_id})"
    else:
        known_words = render_note(note("accuracy_unknown"), NOTES)
    if (close := candidate.closeness) is not None:
        known_words += f"; {describe_kl(close)} to {close.reference} recorded ({close.job_id})"
    elif known is None:
        known_words += f"; {COSTS.get(candidate.quantization, 'the loss by this number format is unknown')}"
    return known_words if candidate.is_asked else f"another, smaller model; {known_words}"


def as_data(advice: Advice, described: Machine | None) -> dict[str, Any]:
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
            "before_next": _text(candidate.before_next),
        }
        rest = {"why_not": _text(candidate.problem)} if candidate.problem else judged
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
