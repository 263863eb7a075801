"""Texts of notes on measurements of speed and memory."""

from __future__ import annotations

from runner.render.engine_notes import shortage_note
from runner_base import format_count
from runner_base.render.notes import Template


def _sustainable_rate_text(
    rate: float | None, is_highest: bool, lowest: float, latency_factor: float, answered_share: float
) -> str:
    rule = (
        f"p95 of whole answers within {latency_factor:g} × that of the lowest rate, and answers at "
        f"{answered_share:.0%} of the requests' rate or more"
    )
    if rate is None:
        return f"no knee: even {lowest:g} requests/s is more than it can keep up with ({rule})"
    if is_highest:
        return f"no knee was found up to {rate:g} requests/s, the highest rate that was tried: {rule}"
    return f"the knee: {rate:g} requests/s is the highest rate that it can keep up with: {rule}"


def _answers_differ_text(differing: int, answers: int, interval: tuple[float, float], dtype: str) -> str:
    low, high = (100 * end for end in interval)
    if differing:
        return (
            f"{differing:,} of {answers:,} answers differ from those without guesses ({low:.1f} to {high:.1f} %, exact "
            f"95 % interval): {dtype} rounds a pass over several tokens otherwise than single steps"
        )
    return (
        f"none of {answers:,} answers differs from that without guesses: up to {high:.1f} % may (exact two-sided 95 % "
        "interval)"
    )


SPEED: dict[str, Template] = {
    "error": "{reason}",
    "fewer_rows": lambda shortage: shortage_note(shortage),
    "out_of_memory": "out of memory: {reason}",
    "too_short": "an answer had {tokens} tokens instead of {wanted}",
    "unanswered": "{count} of {total} requests had no answer after {seconds:.0f} s",
    "answer_failed": "an error: {reason}",
    "not_tried_above": "not tried: {rate:g} requests/s did not fit",
    "knee": _sustainable_rate_text,
    "phases_unseen": "prefill and decode cannot be told apart at a server: output tok/s counts whole answers, with the "
    "network",
    "text_in_pieces": "this engine delivers text in pieces: the gaps between tokens are those between pieces",
    "no_token_times": "this engine does not report when each token came, so there are no gaps between tokens",
    "no_arithmetic": "how much this model computes and reads is unknown, so its cells are not compared with the "
    "machine's limits",
    "no_limits": "there was too little memory to measure this machine's limits",
    "weights_in_cache": "decoding read faster than main memory delivers: the weights, or a part of them, stay in the "
    "processor's caches",
    "mean_length": "work and reads of a batch of real prompts are counted as if each prompt had the batch's mean "
    "length",
    "no_energy": "no energy: {reason}",
    "computed_elsewhere": "the processors that work are another machine's",
    "no_rapl": "no energy counter of the CPU (RAPL) is shown here, as in most virtual machines",
    "rapl_unreadable": "the CPU's energy counter {folder}/energy_uj cannot be read: {reason}",
    "no_nvml": "the energy of GPUs is read through the package nvidia-ml-py, which is not installed",
    "nvml_failed": "the GPUs' energy counters cannot be read: {reason}",
    "no_counters": "not counted: {reasons}. On Linux the counter of an Intel or AMD processor is "
    "/sys/class/powercap/intel-rapl:0/energy_uj, which the administrator may let you read (chmod a+r); a virtual "
    "machine rarely has it. GPUs of NVIDIA need the package nvidia-ml-py",
    "others_on_gpus": lambda count: f"{format_count(count, 'other program')} on the same GPUs",
    "shared_counters": "not counted: {other}, and the counters count whole processors, whoever uses them",
    "cells_not_measured": "{count} of {total} cells could not be measured, see their notes",
    "noise_unknown": "unknown: it takes {repeats} repeats or more to tell",
    "noisy": "too noisy to tell: {reasons}",
    "cells_vary": "{count} of {total} cells vary by more than {share:.0%}",
    "rates_vary": "the machine's own rates vary by {share:.0%}",
    "other_work": "{what}",
    "quiet": "quiet: {count} of {total} cells vary by {share:.0%} or less (the middle half of their repeats)",
    "prompts_too_long": "{count:,} prompts were left out: they are too long for the model",
    "prompts_repeated": "{sent:,} prompts were sent, but there are only {total:,}, so some were repeated: a cache of "
    "prompts may have saved work",
    "random_prompts": "the prompts are random tokens, so how many guesses are right says little about texts: "
    "task.prompts=embedded, or prompts of your own, are texts",
    "too_few_repeats": "an interval of the gain takes task.repeats={fewest} or more",
    "answers_differ": _answers_differ_text,
    "no_prediction": "no prediction: it needs the headers of safetensors files, and the checkpoint has none",
    "peaks_since_start": "this system cannot reset the high-water mark: peaks count from the start of the process",
    "what_peaks_are": "peaks are the kernel's high-water marks of resident memory above that of the import; during the "
    "load, only memory that belongs to no file counts, sampled every 5 ms",
    "points_not_measured": "{count} of {total:.0f} points could not be measured, see their notes",
}
