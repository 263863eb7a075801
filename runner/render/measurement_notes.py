"""Texts of notes on measurements of speed and memory."""

from __future__ import annotations

from runner.render.engine_notes import format_memory_limited_batch_note
from runner_base import format_count
from runner_base.render.notes import Template


def _explain_sustainable_request_rate(
    rate: float | None, is_highest: bool, lowest: float, latency_factor: float, answered_share: float
) -> str:
    rule = (
        f"p95 latency is at most {latency_factor:g} × the p95 latency at the lowest rate, and "
        f"throughput is at least {answered_share:.0%} of the request rate"
    )
    if rate is None:
        return f"the engine does not sustain even {lowest:g} requests/s. Criterion: {rule}"
    if is_highest:
        return f"the engine sustains {rate:g} requests/s, the highest tested rate. Criterion: {rule}"
    return f"the highest tested rate that the engine sustains is {rate:g} requests/s. Criterion: {rule}"


def _describe_answer_changes_from_drafting(
    differing: int, answers: int, interval: tuple[float, float], dtype: str
) -> str:
    low, high = (100 * end for end in interval)
    if differing:
        return (
            f"{differing:,} of {answers:,} answers change with draft tokens (exact 95 % interval: "
            f"{low:.1f} to {high:.1f} %). In {dtype}, a pass over several tokens rounds differently "
            "than a pass over one token"
        )
    return (
        f"all {answers:,} answers are the same with and without draft tokens. Upper limit of "
        f"changed answers: {high:.1f} % (exact 95 % interval, two-sided)"
    )


SPEED: dict[str, Template] = {
    "error": "{reason}",
    "fewer_rows": lambda shortage: format_memory_limited_batch_note(shortage),
    "out_of_memory": "out of memory: {reason}",
    "too_short": "an answer had {tokens} tokens instead of {wanted}",
    "unanswered": "{count} of {total} requests had no answer after {seconds:.0f} s",
    "answer_failed": "an error: {reason}",
    "not_tried_above": "this rate was not tested, because the engine did not sustain {rate:g} requests/s",
    "knee": _explain_sustainable_request_rate,
    "phases_unseen": "the server does not report prefill and decode times. Output tok/s therefore includes "
    "prefill and network time",
    "text_in_pieces": "this engine streams chunks of several tokens, so gaps are measured between chunks",
    "no_token_times": "this engine does not report the time of each token, so gaps between tokens are unknown",
    "no_arithmetic": "this model's FLOP and bytes per token are unknown, so speeds are not compared with the "
    "machine's limits",
    "no_limits": "there was too little memory to measure this machine's limits",
    "weights_in_cache": "decoding is faster than memory bandwidth allows, because weights stay in CPU caches",
    "mean_length": "FLOP and bytes of batches with real prompts are estimates from the mean prompt length",
    "no_energy": "energy is unknown: {reason}",
    "computed_elsewhere": "the model runs on another machine",
    "no_rapl": "this machine has no CPU energy counter (RAPL), like most virtual machines",
    "rapl_unreadable": "the CPU's energy counter {folder}/energy_uj cannot be read: {reason}",
    "no_nvml": "the energy of GPUs needs the package nvidia-ml-py, which is not installed",
    "nvml_failed": "the energy counters of the GPUs cannot be read: {reason}",
    "no_counters": "not measured: {reasons}. On Linux, Intel and AMD processors have the counter "
    "/sys/class/powercap/intel-rapl:0/energy_uj: ask the administrator to allow reading it (chmod a+r). Virtual "
    "machines rarely have it. NVIDIA GPUs need the package nvidia-ml-py",
    "others_on_gpus": lambda count: (
        f"{format_count(count, 'other program uses', 'other programs use')} the same GPUs"
    ),
    "shared_counters": "not measured: {other}, and the counters include the energy of all programs",
    "cells_not_measured": "{count} of {total} combinations of settings were not measured. "
    "The table's notes give the reasons",
    "noise_unknown": "unknown: use task.repeats={repeats} or more",
    "noisy": "too noisy for a conclusion: {reasons}",
    "cells_vary": "the speeds of {count} of {total} cells vary by more than {share:.0%}",
    "rates_vary": "the measured hardware limits vary by {share:.0%}",
    "other_work": "{what}",
    "quiet": "low: the speeds of {count} of {total} cells vary by at most {share:.0%} (interquartile range)",
    "prompts_too_long": "{count:,} prompts were left out: they are too long for the model",
    "prompts_repeated": "{sent:,} prompts were sent, but only {total:,} exist. A prompt cache may have sped "
    "up the repeated prompts",
    "random_prompts": "the prompts are random tokens, so the acceptance rate of draft tokens is not "
    "realistic. Use task.prompts=embedded, or your own prompts",
    "too_few_repeats": "the gain has no confidence interval: use task.repeats={fewest} or more",
    "answers_differ": _describe_answer_changes_from_drafting,
    "no_prediction": "memory is not predicted: the checkpoint has no headers of safetensors files",
    "peaks_since_start": "this system cannot reset the peak memory, so peaks cover the whole process",
    "what_peaks_are": "a peak is the process memory (RSS) above the RSS after the imports, when unused library "
    "pages are released. While the model loads, the RSS is sampled every 5 ms, and memory-mapped files are subtracted",
    "points_not_measured": "{count} of {total:.0f} pairs of batch size and context length were not measured. "
    "The table's notes give the reasons",
}
