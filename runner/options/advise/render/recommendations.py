"""Text and JSON output of the settings that `runner-advise` recommends."""

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
from runner.options.advise.render.notes import NOTES
from runner.options.advise.render.recorded_metrics import format_accuracy, format_kl_divergence
from runner.options.advise.render.speculation_gains import describe_speedups
from runner_base import escape_control_characters, format_duration, machine
from runner_base.notes import Note, note
from runner_base.render.notes import render_note

PARTS = "the prediction is an upper bound, the sum of these parts"
COSTS = {
    "none": "the model as it is",
    "int8": "int8: no loss in published tests (LLM.int8(), 2022)",
    "nf4": "nf4: little loss in published tests (QLoRA, 2023), more for small models",
}


def print_recommendations(advice: Advice, named_machine: Machine | None, limits: UserLimits) -> None:
    """Print the recommended candidates, and one line for each rejected candidate."""
    machine_name = machine.machine_name() if named_machine is None else f"{named_machine.name}, as described"
    allowed = f"at most {limits.memory_mib:,.0f} MiB" if limits.memory_mib else ""
    allowed += f"{(', ' if allowed else '')}{limits.seconds:g} s per question" if limits.seconds else ""
    print(escape_control_characters(f"on {machine_name}{f'; {allowed}' if allowed else ''}"))
    for number, candidate in enumerate(advice.chosen, start=1):
        print(escape_control_characters(f"\n{number}. {format_job_command(candidate)}"))
        is_tight = candidate.best_known_mib > TIGHT * candidate.allowed_mib
        tight = f"; tight: {candidate.allowed_mib:,.0f} are allowed" if is_tight else ""
        peak = f"{candidate.memory_mib:,.0f} MiB peak memory, predicted"
        if candidate.measured_mib is not None:
            peak = (
                f"{candidate.measured_mib:,.0f} MiB peak memory, recorded on this machine "
                f"({candidate.memory_mib:,.0f} predicted)"
            )
        print(
            escape_control_characters(f"   memory    {peak}; {PARTS}: {_describe_memory(candidate)}{tight}")
        )
        print(escape_control_characters(f"   speed     {_describe_speed(candidate)}"))
        for line in describe_speedups(candidate.gains, candidate.batch_size):
            print(escape_control_characters(f"   guesses   {line}"))
        print(escape_control_characters(f"   answers   {_describe_accuracy(candidate)}"))
        for line in candidate.notes:
            print(escape_control_characters(f"   note      {line}"))
        if number < len(advice.chosen):
            print(escape_control_characters(f"   order     {_format_reason(candidate.before_next)}"))
    if advice.rejected:
        print()
    for candidate in advice.rejected:
        print(
            escape_control_characters(
                f"not {candidate.model_name} quantization={candidate.quantization}: {_format_reason(candidate.problem)}"
            )
        )


def _format_reason(reason_note: Note | None) -> str | None:
    return None if reason_note is None else render_note(reason_note, NOTES)


def format_job_command(candidate: Candidate) -> str:
    return shlex.join(["runner", *candidate.overrides])


def _describe_memory(candidate: Candidate) -> str:
    assert candidate.fit is not None
    parts = candidate.fit.predicted
    in_file = parts.weight_mib - parts.resident_weight_mib
    resident = (
        f" of {parts.weight_mib:,.0f} (the rest stays in the memory-mapped file)" if in_file >= 1 else ""
    )
    return (
        f"weights {parts.resident_weight_mib:,.0f}{resident}, KV cache {parts.kv_cache_mib:,.0f}, activations "
        f"{parts.activation_mib:,.0f}, other process memory {PROCESS_MIB + parts.runtime_mib:,.0f}"
    )


def _describe_speed(candidate: Candidate) -> str:
    each_s = candidate.s_per_question
    if candidate.time is None or each_s is None:
        return "unknown: no finished job is recorded, and this model's speed was not measured"
    basis = {
        EstimateBasis.recorded: "recorded here",
        EstimateBasis.calibrated: "calibrated here",
        EstimateBasis.guessed: "estimated from memory bandwidth and matmul speed",
    }
    condition = (
        " if every answer reaches the token limit"
        if candidate.time.is_upper_bound and candidate.time.source is not EstimateBasis.recorded
        else ""
    )
    whole = f"the job {format_duration(candidate.time.seconds)}"
    return (
        f"{each_s:,.2f} s per question{condition}, {whole}, ± {candidate.time.spread:.0%}: "
        f"{basis[candidate.time.source]}"
    )


def _describe_accuracy(candidate: Candidate) -> str:
    if (known := candidate.accuracy) is not None:
        known_words = f"accuracy {format_accuracy(known)} recorded ({known.job_id})"
    else:
        known_words = render_note(note("accuracy_unknown"), NOTES)
    if (close := candidate.closeness) is not None:
        known_words += f"; recorded {format_kl_divergence(close)} to {close.reference} ({close.job_id})"
    elif known is None:
        known_words += f"; {COSTS.get(candidate.quantization, 'the loss of this format is unknown')}"
    return known_words if candidate.is_asked else f"another, smaller model; {known_words}"


def recommendations_to_dict(advice: Advice, named_machine: Machine | None) -> dict[str, Any]:
    def candidate_to_dict(candidate: Candidate) -> dict[str, Any]:
        parts = candidate.fit.predicted if candidate.fit else None
        memory = parts and {
            "peak_mib": candidate.memory_mib,
            "recorded_peak_mib": candidate.measured_mib,
            "weight_mib": parts.weight_mib,
            "kv_cache_mib": parts.kv_cache_mib,
            "activation_mib": parts.activation_mib,
        }
        time = candidate.time and {
            "seconds_per_question": candidate.s_per_question,
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
        answers = {"answers": _describe_accuracy(candidate), "accuracy": accuracy, "divergence": divergence}
        guesses = [asdict(gain) | {"pays": gain.is_faster} for gain in candidate.gains]
        judged = {
            **answers,
            "guesses": guesses,
            "notes": candidate.notes,
            "before_next": _format_reason(candidate.before_next),
        }
        rest = {"why_not": _format_reason(candidate.problem)} if candidate.problem else judged
        return {
            "overrides": candidate.overrides,
            "command": format_job_command(candidate),
            "memory": memory,
            "time": time,
            **rest,
        }

    return {
        "machine": named_machine.name if named_machine else machine.machine_name(),
        "recommended": [candidate_to_dict(candidate) for candidate in advice.chosen],
        "out": [candidate_to_dict(candidate) for candidate in advice.rejected],
        "most": MAX_RECOMMENDED,
    }
