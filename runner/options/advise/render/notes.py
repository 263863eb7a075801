"""Message templates that explain why `runner-advise` ranks or rejects a candidate."""

from __future__ import annotations

from collections.abc import Mapping

from runner.options.advise.accuracies import RecordedAccuracy
from runner.options.advise.recorded_kl import RecordedKl
from runner.options.advise.render.recorded_metrics import KL_UNIT, format_accuracy, format_kl_divergence
from runner_base import fixed_decimals_formatter, format_against_limit, format_value_and_limit
from runner_base.render.notes import Template
from runner_compare import format_percentage_points

ValuePair = tuple[float, float]


def _describe_too_large(needed_mib: float, allowed_mib: float) -> str:
    needs, allowed = format_value_and_limit(needed_mib, allowed_mib, fixed_decimals_formatter(0))
    return f"the job needs {needs} MiB even with batch size 1, but the limit is {allowed} MiB"


def _describe_accuracy_gain(
    value: float, interval: ValuePair, questions: int, is_paired: bool, p: float
) -> str:
    on = f"the same {questions:,} questions" if is_paired else "questions that are not paired"
    low, high = map(format_percentage_points, interval)
    return f"the accuracy is {format_percentage_points(value)} points [{low}, {high}] higher on {on} (p = {p:.2g})"


def _describe_time_and_memory_gains(seconds: ValuePair | None, mib: ValuePair | None) -> str:
    better_in = []
    if seconds is not None:
        better_in.append(f"time ({seconds[0]:,.2f} s per question instead of {seconds[1]:,.2f})")
    if mib is not None:
        better_in.append(f"memory ({mib[0]:,.0f} MiB instead of {mib[1]:,.0f})")
    return f"this candidate is better in {', '.join(better_in)}, and no other recorded value is worse"


def _describe_lower_kl(own: RecordedKl, other: RecordedKl) -> str:
    kl, other_kl = format_kl_divergence(own).removesuffix(KL_UNIT), format_kl_divergence(other)
    return f"it is closer to {own.reference}: {kl} instead of {other_kl.removeprefix('KL ')}"


def _describe_reference(own: RecordedKl, other: RecordedKl) -> str:
    return (
        f"this candidate is the reference model {own.reference}. "
        f"The next candidate has {format_kl_divergence(other)}"
    )


def _describe_no_difference(own: RecordedAccuracy, other: RecordedAccuracy) -> str:
    return f"accuracy does not differ significantly ({format_accuracy(own)} and {format_accuracy(other)})"


NOTES: Mapping[str, Template] = {
    # why a candidate is rejected
    "size_unknown": "the model's size is unknown without a download. Give model.name=FOLDER or a preset",
    "out_of_reach": "{error}",
    "too_large": _describe_too_large,
    "too_slow": lambda each_s, limit_s: (
        f"one question takes about {format_against_limit(each_s, limit_s, fixed_decimals_formatter(1))} s, "
        f"but the limit is {limit_s:g}"
    ),
    # why one is before the next one
    "before": lambda other, reason: f"above {' '.join(other)}: {reason}",
    "level": lambda other, reason: f"level with {' '.join(other)}: {reason}",
    "reason": "{why}; {known}",
    "more_accurate": _describe_accuracy_gain,
    "is_reference": _describe_reference,
    "closer": _describe_lower_kl,
    "published_loss": "published tests of other models find less loss for {quantization} than for {other}",
    "no_worse": _describe_time_and_memory_gains,
    "named": "this is the requested model",
    "time_unknown": (
        "this candidate takes {each_s:,.2f} s per question, but the time of the other candidate is unknown"
    ),
    "faster": "estimated to be faster: {each_s:,.2f} s per question instead of {other_s:,.2f}",
    "faster_at_most": "estimated to take at most {each_s:,.2f} s per question instead of {other_s:,.2f}",
    "recorded_time": lambda each_s, other_s, other, spread: (
        f"measured here ({each_s:,.2f} s per question), {' '.join(other)} only estimated "
        f"({other_s:,.2f} s, ± {spread:.0%})"
    ),
    "less_memory": "less memory: {mib:,.0f} MiB instead of {other_mib:,.0f}",
    "alike": "no criterion prefers one of the two",
    # what is known of their accuracies
    "accuracy_unknown": "both accuracies are unmeasured",
    "accuracy_of_one_unknown": lambda other: (
        f"the accuracy of {' '.join(other) or 'this candidate'} is not measured"
    ),
    "accuracies_incomparable": "their recorded accuracies cannot be compared",
    "no_difference": _describe_no_difference,
}
