"""Texts of notes on measurements of speed and memory."""

from __future__ import annotations

from runner.render.engine_notes import shortage_note
from runner_base import format_count
from runner_base.render.notes import Template


def _sustainable_rate_text(
    rate: float | None, is_highest: bool, lowest: float, latency_factor: float, answered_share: float
) -> str:
    rule = (
        f"the p95 time of an answer is at most {latency_factor:g} × that at the lowest rate, and answers come at "
        f"{answered_share:.0%} of the request rate or more"
    )
    if rate is None:
        return f"even {lowest:g} requests/s is too much. Criterion: {rule}"
    if is_highest:
        return f"it keeps up with {rate:g} requests/s, the highest rate that was tried. Criterion: {rule}"
    return f"{rate:g} requests/s is the highest rate that it keeps up with. Criterion: {rule}"


def _answers_differ_text(differing: int, answers: int, interval: tuple[float, float], dtype: str) -> str:
    low, high = (100 * end for end in interval)
    if differing:
        return (
            f"{differing:,} of {answers:,} answers differ from those without draft tokens (exact 95 % interval: "
            f"{low:.1f} to {high:.1f} %): {dtype} rounds differently when one pass computes several tokens"
        )
    return (
        f"all {answers:,} answers are the same as without draft tokens: at most {high:.1f} % may differ (exact 95 % "
        "interval, two-sided)"
    )


SPEED: dict[str, Template] = {
    "error": "{reason}",
    "fewer_rows": lambda shortage: shortage_note(shortage),
    "out_of_memory": "out of memory: {reason}",
    "too_short": "an answer had {tokens} tokens instead of {wanted}",
    "unanswered": "{count} of {total} requests had no answer after {seconds:.0f} s",
    "answer_failed": "an error: {reason}",
    "not_tried_above": "not tried: {rate:g} requests/s was already too much",
    "knee": _sustainable_rate_text,
    "phases_unseen": "a server does not report prefill and decode separately: output tok/s counts whole answers, "
    "network time included",
    "text_in_pieces": "this engine delivers text in pieces: the gaps between tokens are gaps between pieces",
    "no_token_times": "this engine does not report the time of each token, so gaps between tokens are unknown",
    "no_arithmetic": "this model's operations and bytes per token are unknown, so its cells are not compared with the "
    "machine's limits",
    "no_limits": "there was too little memory to measure this machine's limits",
    "weights_in_cache": "decoding reads faster than main memory can deliver: weights stay in the processor's caches",
    "mean_length": "operations and bytes of a batch of real prompts are computed from the batch's mean length",
    "no_energy": "energy is unknown: {reason}",
    "computed_elsewhere": "the model runs on another machine",
    "no_rapl": "this machine has no energy counter of the CPU (RAPL), as most virtual machines",
    "rapl_unreadable": "the CPU's energy counter {folder}/energy_uj cannot be read: {reason}",
    "no_nvml": "the energy of GPUs needs the package nvidia-ml-py, which is not installed",
    "nvml_failed": "the energy counters of the GPUs cannot be read: {reason}",
    "no_counters": "not measured: {reasons}. On Linux, Intel and AMD processors have the counter "
    "/sys/class/powercap/intel-rapl:0/energy_uj: ask the administrator to allow reading it (chmod a+r). Virtual "
    "machines rarely have it. NVIDIA GPUs need the package nvidia-ml-py",
    "others_on_gpus": lambda count: (
        f"{format_count(count, 'other program uses', 'other programs use')} the same GPUs"
    ),
    "shared_counters": "not measured: {other}, and the counters count whole processors, whoever uses them",
    "cells_not_measured": "{count} of {total} cells were not measured. Their notes say why",
    "noise_unknown": "unknown: use task.repeats={repeats} or more",
    "noisy": "too noisy for a conclusion: {reasons}",
    "cells_vary": "{count} of {total} cells vary by more than {share:.0%}",
    "rates_vary": "the machine's own speed varies by {share:.0%}",
    "other_work": "{what}",
    "quiet": "low: {count} of {total} cells vary by {share:.0%} or less (interquartile range of the repeats)",
    "prompts_too_long": "{count:,} prompts were left out: they are too long for the model",
    "prompts_repeated": "{sent:,} prompts were sent, but only {total:,} exist, so some were repeated: a prompt cache "
    "may have saved work",
    "random_prompts": "the prompts are random tokens, so the share of accepted draft tokens says little about real "
    "text. Use task.prompts=embedded, or your own prompts",
    "too_few_repeats": "no interval of the gain: use task.repeats={fewest} or more",
    "answers_differ": _answers_differ_text,
    "no_prediction": "memory is not predicted: the checkpoint has no headers of safetensors files",
    "peaks_since_start": "this system cannot reset the high-water mark of memory: peaks count from the process start",
    "what_peaks_are": "peaks are high-water marks of resident memory above that after the imports. During the load, "
    "memory of mapped files does not count, and is sampled every 5 ms",
    "points_not_measured": "{count} of {total:.0f} points were not measured. Their notes say why",
}
