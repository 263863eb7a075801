"""Text and JSON output of the settings that `runner-advise` recommends."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
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
from runner_base import escape_control_characters, format_count, format_duration, machine
from runner_base.notes import Note
from runner_base.render.notes import render_note
from runner_engine import Footprint

COSTS = {
    "none": "unquantized",
    "int8": "published tests found no loss for int8 (LLM.int8(), 2022)",
    "nf4": "published tests found little loss for nf4 (QLoRA, 2023), more for small models",
}
LABEL_WIDTH = 13
ONE_PART = {"load": "loading", "packing": "packing"}  # phases whose memory is one part


def print_recommendations(
    advice: Advice, named_machine: Machine | None, limits: UserLimits, run_command: str | None
) -> None:
    """Print the recommended candidates, the rejected candidates, and the command that runs the recommended
    ones.
    """

    def show(line: str) -> None:
        print(escape_control_characters(line))

    name = (
        machine.describe_hardware()
        if named_machine is None
        else f"{named_machine.name} (from its description, not measured)"
    )
    show(f"machine: {name}")
    if wanted := _describe_limits(limits):
        show(f"limits: {wanted}")
    if advice.chosen:
        count = format_count(len(advice.chosen), "candidate")
        fit = "within the limits" if wanted else "fit into the free memory"
        show(f"{count} {fit}" + (", best first:" if len(advice.chosen) > 1 else ":"))
    for number, candidate in enumerate(advice.chosen, start=1):
        show(f"\n{number}. {format_job_command(candidate)}")
        for label, text in _iter_candidate_labels_and_texts(candidate, number < len(advice.chosen)):
            show(f"   {label:<{LABEL_WIDTH}}{text}")
    if advice.rejected:
        show("\nrejected:")
    for candidate in advice.rejected:
        name = f"{candidate.model_name} quantization={candidate.quantization}"
        show(f"   {name}: {_format_reason(candidate.problem)}")
    if advice.chosen and run_command is not None:
        show(f"\nTo run {'them' if len(advice.chosen) > 1 else 'it'}: {run_command}")


def _describe_limits(limits: UserLimits) -> str:
    wanted = [f"at most {limits.memory_mib:,.0f} MiB"] if limits.memory_mib else []
    wanted += [f"at most {limits.seconds:g} s per question"] if limits.seconds else []
    return ", ".join(wanted)


def _iter_candidate_labels_and_texts(candidate: Candidate, has_next: bool) -> Iterator[tuple[str, str]]:
    """Yield pairs (label, text) that describe one candidate."""
    yield "peak memory", _describe_memory(candidate)
    yield "time", _describe_estimated_time(candidate)
    for line in describe_speedups(candidate.gains, candidate.batch_size):
        yield "speculation", line
    yield "accuracy", _describe_accuracy(candidate)
    for line in candidate.notes:
        yield "note", line
    if has_next and (reason := _format_reason(candidate.before_next)) is not None:
        yield "ranked", reason


def _format_reason(reason_note: Note | None) -> str | None:
    return None if reason_note is None else render_note(reason_note, NOTES)


def format_job_command(candidate: Candidate) -> str:
    return shlex.join(["runner", *candidate.overrides])


def _describe_memory(candidate: Candidate) -> str:
    assert candidate.fit is not None
    predicted = f"{candidate.memory_mib:,.0f} = {_format_peak_memory_components(candidate.fit.predicted)}"
    if candidate.measured_mib is not None:
        peak = f"{candidate.measured_mib:,.0f} MiB measured on this machine (predicted: {predicted})"
    else:
        peak = f"predicted MiB: {predicted}"
    is_tight = candidate.best_known_mib > TIGHT * candidate.allowed_mib
    tight = f"; close to the limit of {candidate.allowed_mib:,.0f} MiB" if is_tight else ""
    return f"{peak}{tight}"


def _format_peak_memory_components(predicted: Footprint) -> str:
    """Format the components of the predicted peak memory, rounded so that they add up to the rounded
    total.
    """
    peak = predicted.peak_memory_breakdown
    total = round(predicted.total_mib + PROCESS_MIB)
    if (doing := ONE_PART.get(peak.phase)) is not None:
        return f"{doing} the model {total - round(PROCESS_MIB):,} + process {PROCESS_MIB:,.0f}"
    in_file = predicted.weight_mib - predicted.resident_weight_mib
    resident = f" ({in_file:,.0f} more stay on disk until they are read)" if in_file >= 1 else ""
    weights, kv_cache, activations = map(round, (peak.weight_mib, peak.kv_cache_mib, peak.activation_mib))
    return (
        f"weights {weights:,}{resident} + KV cache {kv_cache:,} + activations {activations:,} + "
        f"process {total - weights - kv_cache - activations:,}"
    )


def _describe_estimated_time(candidate: Candidate) -> str:
    each_s = candidate.s_per_question
    if candidate.time is None or each_s is None:
        return "unknown: no finished job is recorded, and this model's speed was not measured"
    estimate = candidate.time
    count = round(estimate.seconds / each_s) if each_s else 0
    work = f"for {format_count(count, 'question')}"
    known = f"{format_duration(estimate.seconds)} {work} ({each_s:,.2f} s each)"
    if estimate.source is EstimateBasis.recorded:
        return f"{known}, measured on this machine. A rerun may differ by ± {estimate.spread:.0%}"
    is_measured = estimate.source is EstimateBasis.calibrated
    basis = "estimated from a measured speed" if is_measured else "a rough estimate"
    if estimate.is_upper_bound:
        seconds = estimate.seconds * (1 + estimate.spread)
        return f"up to {format_duration(seconds)} {work}: {basis} for answers of maximum length"
    return f"{known}, ± {estimate.spread:.0%}: {basis}"


def _describe_accuracy(candidate: Candidate) -> str:
    if (known := candidate.accuracy) is not None:
        known_words = f"{format_accuracy(known)} questions, recorded ({known.job_id})"
    else:
        known_words = "not measured on this machine"
    if (close := candidate.closeness) is not None:
        known_words += f"; recorded {format_kl_divergence(close)} to {close.reference} ({close.job_id})"
    elif known is None:
        known_words += f"; {COSTS.get(candidate.quantization, 'the loss of this format is unknown')}"
    return (
        known_words if candidate.is_asked else f"{known_words}; this model is smaller than the requested one"
    )


def recommendations_to_dict(advice: Advice, named_machine: Machine | None) -> dict[str, Any]:
    def convert_candidate_to_dict(candidate: Candidate) -> dict[str, Any]:
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
        "machine": named_machine.name if named_machine else machine.describe_hardware(),
        "recommended": [convert_candidate_to_dict(candidate) for candidate in advice.chosen],
        "out": [convert_candidate_to_dict(candidate) for candidate in advice.rejected],
        "most": MAX_RECOMMENDED,
    }
