"""The one list of metrics: unit, label, number format, which direction is better, how several runs are pooled.

The report, the table of a grid and the comparison read this list. A metric's name occurs only in the task that
computes it and in this file. Names contain units (`peak_rss_mib`, `load_s`), so the unit follows from the key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from functools import cache
from string import Formatter
from typing import Any

from runner_base import ConfigError, Sample, load_object, plug_ins, say
from runner_base.spreads import RANKS

UNITS = {"_tok_per_s": "tok/s", "_mib_per_s": "MiB/s", "_gb_per_s": "GB/s", "_gflop_per_s": "GFLOP/s",
         "_requests_per_s": "requests/s", "_j_per_token": "J/token", "_j": "J", "_mib": "MiB", "_s": "s",
         "_nats": "nats"}  # fmt: skip
SPREADS = ("_min", "_max")  # the lowest and the highest of several repeats


class Better(Enum):
    """Which direction of a metric is better, as the sign of an improvement."""

    higher = 1
    lower = -1
    neither = 0


class Pooling(StrEnum):
    """How the values of several runs become one."""

    sum = "sum"
    mean = "mean"
    max = "max"
    per_token = "per_token"  # the speed over all tokens of all runs
    dropped = "dropped"  # it follows from other metrics, or has no meaning over several runs


@dataclass(frozen=True)
class Metric:
    """One number that tasks measure, or that a plug-in computes from a job's samples."""

    key: str
    label: str  # without the unit
    unit: str = ""
    form: str = ""  # Python's format specification; empty: as many digits as help
    better: Better = Better.neither
    pooling: Pooling = Pooling.mean
    tokens: str = ""  # for pooling per token: the metric that counts the tokens
    axis_words: str = ""  # the text on a picture's axis, if the label is too short
    head_words: str = ""  # the head of a narrow column, if the label does not fit
    of_samples: Callable[[Sequence[Sample]], float] | None = None  # a plug-in's: from the answers that count

    @property
    def title(self) -> str:
        """The label with the unit, for the head of a column."""
        return f"{self.label} {self.unit}".strip()

    @property
    def head(self) -> str:
        """The label over the unit, for the head of a narrow column."""
        return self.head_words or "\n".join(self.title.rsplit(" ", 1))

    @property
    def axis(self) -> str:
        """The label for a picture's axis."""
        return self.axis_words or ", ".join(filter(None, (self.label, self.unit)))

    def write(self, value: float) -> str:
        """Return a value as text, without the unit."""
        return format(value, self.form) if self.form else number(value)


def number(value: float) -> str:
    """Write a number with as many digits as help."""
    if value % 1 == 0:  # false for infinity and NaN
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _metric(key: str, label: str = "", form: str = "", **special: Any) -> Metric:
    """Describe a metric; what is not given follows from the unit."""
    suffix = next((suffix for suffix in UNITS if key.endswith(suffix)), "")
    unit = UNITS.get(suffix, "")
    plain = {
        "unit": unit,
        "label": label or key.removesuffix(suffix).replace("_", " "),
        "better": Better.neither if not unit else Better.higher if unit.endswith("/s") else Better.lower,
        "pooling": Pooling.max if unit == "MiB" else Pooling.mean,
    }
    return Metric(key=key, form=form, **(plain | special))


def _with_ends(key: str, label: str, form: str, better: Better, **special: Any) -> list[Metric]:
    """Describe a number and the ends of its interval, which belong to one run and are not pooled."""
    about = {"form": form, "better": better, "pooling": Pooling.dropped, **special}
    ends = [
        _metric(key + end, label and label + end.replace("_", " "), **about | {"head_words": ""}) for end in ENDS[1:]
    ]
    return [_metric(key, label, **about), *ends]


def _counts(better: Better, *keys: str) -> list[Metric]:
    """Describe counts that add up over runs."""
    return [_metric(key, form=",.0f", better=better, pooling=Pooling.sum) for key in keys]


LOG_LIKELIHOOD = "log_likelihood_nats_per_token"
# What log-likelihoods are divided by: the first of these that a run has. lm-eval counts bytes and texts, not tokens.
LOG_LIKELIHOODS = {
    "token": LOG_LIKELIHOOD,
    "byte": "log_likelihood_nats_per_byte",
    "text": "log_likelihood_nats_per_text",
}
ENDS = ("", "_low", "_high")  # of a number and its 95 % interval
BOUNDS = ("accuracy_cut_off_wrong", "accuracy_cut_off_right", "accuracy_uncut_low", "accuracy_uncut_high")
# percentiles over tokens: the divergence from the reference, and the change of the text's tokens' own probabilities
KL_SHARES = {"kl_median_nats": 0.5, "kl_p90_nats": 0.9, "kl_p95_nats": 0.95, "kl_p99_nats": 0.99, "kl_p999_nats": 0.999}
DELTA_P_SHARES = {
    **{f"delta_p_p{digits}": float(f"0.{digits}") for digits in ("001", "01", "05", "10", "25")},
    "delta_p_median": 0.5,
    **{f"delta_p_p{digits}": float(f"0.{digits}") for digits in ("75", "90", "95", "99", "999")},
}
OF_CALLS = ("prompt_tokens", "new_tokens")
OF_QUESTION = ("prompt_tokens_per_question", "new_tokens_per_question")  # the cost of a question that takes many calls
OF_PREFILL = (
    "computed_prompt_tokens",
    "shared_prompt_tokens",
)  # a shared beginning is computed once
OF_GUESSES = ("draft_tokens", "accepted_tokens")  # guessed tokens, and how many of them the model confirmed
TRAINING = ("before", "after")
# with several answers to each question, for each number k of them: one of k is right, their vote is, all are
BY_ANSWERS = {"pass_at_k": "pass@{}", "maj_at_k": "maj@{}", "pass_hat_k": "pass^{}"}
OF_SIDES = ("answers", "calls", *OF_CALLS)
_EVERY = (
    # questions and answers
    _metric("accuracy", form=".1%", better=Better.higher, pooling=Pooling.dropped),  # follows from n and correct
    _metric("accuracy_low", form=".1%", pooling=Pooling.dropped),
    _metric("accuracy_high", form=".1%", pooling=Pooling.dropped),
    *(_metric(f"accuracy_all{end}", form=".1%", pooling=Pooling.dropped) for end in ENDS),  # with task.without
    # where answers were cut off: if all of them were wrong, or right; the 95 % interval of the accuracy without a limit
    *(_metric(key, form=".1%", pooling=Pooling.dropped) for key in BOUNDS),
    _metric("finished_share", "share that finished", ".1%", better=Better.higher),
    _metric("max_new_tokens_for_95_percent", "tokens within which 95 % finish", ",.0f", pooling=Pooling.max),
    *_counts(Better.higher, "correct", "correct_all"),
    *_counts(Better.lower, "wrong", "no_answer", "cut_off", "errors", "cancelled"),
    # how far the score can be trusted
    *_counts(Better.lower, "extractors_differ", "stopped_by_length", "cut_off_thinking", "texts_changed"),
    *_counts(Better.lower, "answers_changed"),
    _metric("double_bos", form=".0f", better=Better.lower, pooling=Pooling.max),
    *_counts(Better.neither, "answers_ended", "answers_found"),  # the latter by extractor: `answers_found/strict`
    *_counts(Better.neither, "thinking_removed"),  # answers of which only what follows the thinking was judged
    # how much the model thought; also by how the answers ended: `endings/closed`
    *(
        _metric(f"{part}_tokens_per_answer", f"{part} tokens", ",.1f", head_words=f"{part}\ntokens\n/answer")
        for part in ("thinking", "answer")
    ),
    _metric("thought_share", "answers with thinking", ".1%"),
    *_counts(Better.neither, "endings"),
    *_counts(Better.neither, "families"),  # of questions, by task.cluster
    *_counts(Better.neither, "asked_again", "twins", "tied_votes"),
    *(_metric(f"{what}_changed_share", form=".1%", better=Better.lower) for what in ("texts", "answers")),
    *_counts(Better.higher, "originals_correct", "twins_correct"),
    *_counts(Better.neither, "only_original_correct", "only_twin_correct"),
    _metric("twins_p", form=".2g", pooling=Pooling.dropped),
    # compared with another job while it asks
    *_counts(Better.neither, "questions_asked", "questions_left", "early_stop_wins", "early_stop_losses"),
    *_with_ends("early_stop_difference_points", "difference to the baseline", "+.1f", Better.higher, unit="points"),
    _metric("early_stop_p", "always-valid p", ".2g", pooling=Pooling.dropped),
    _metric("early_stop_comparisons", form=".0f", pooling=Pooling.dropped),
    _metric("early_stop_level", form=".2g", pooling=Pooling.dropped),
    _metric("early_stop_confidence_percent", "confidence", "g", unit="%", pooling=Pooling.dropped),
    # the choices of each question in several orders
    *_counts(Better.neither, "questions_in_all_orders"),
    *_with_ends("position_bias_points", "position bias", "+.1f", Better.lower, unit="points"),
    _metric("position_bias_p", "p of no position bias", ".2g", pooling=Pooling.dropped),
    _metric("same_in_all_orders_share", "the same choice in all orders", ".1%", better=Better.higher),
    _metric("right_in_all_orders_share", "right in all orders", ".1%", better=Better.higher),
    # several answers to each question
    _metric("answers_each", form=".0f"),
    *(_metric(key, label.format("k"), ".1%", better=Better.higher) for key, label in BY_ANSWERS.items()),
    *_counts(Better.neither, "n", "n_all", "stopped", "prompt_tokens", "new_tokens", *OF_PREFILL, *OF_GUESSES),
    # a team of agents
    *_counts(Better.lower, "calls", "code_failed"),
    *(
        _metric(
            f"{which}_tokens_per_question",
            f"{which} tokens a question",
            ",.0f",
            better=Better.lower,
            head_words=f"{which}\ntokens\n/question",
        )
        for which in ("prompt", "new")
    ),
    _metric("samples_per_question", "samples a question", ".1f", better=Better.neither),
    _metric("play_s", "playing", ",.1f", pooling=Pooling.sum),
    *_counts(
        Better.neither, *(f"train_{what}" for what in ("questions", "solved", "calls", *OF_CALLS)), "match_tokens"
    ),
    _metric("train_cost_usd", "training cost USD", ".4f", better=Better.lower, pooling=Pooling.sum),
    *_counts(Better.neither, *(f"{kind}_edges_{when}" for kind in ("spatial", "temporal") for when in TRAINING)),
    # an attack on one agent of a team
    *_counts(Better.neither, "told_lies", *(f"attacked_{what}" for what in OF_CALLS)),
    *_counts(Better.neither, *(f"attacked_edges_{when}" for when in TRAINING)),
    *_counts(Better.lower, "followed_attack"),
    *_counts(Better.higher, "honest_correct"),
    _metric("honest_accuracy", "the others' vote", ".1%", better=Better.higher, pooling=Pooling.dropped),
    # how likely given texts are
    *_counts(Better.neither, "scored_tokens", "scored_bytes"),
    *_with_ends(
        LOG_LIKELIHOOD,
        "log-likelihood",
        ".5f",
        Better.higher,
        unit="nats/token",
        head_words="log-likelihood\nnats/token",
    ),
    *_with_ends("log_likelihood_nats_per_byte", "log-likelihood", ".5f", Better.higher, unit="nats/byte"),
    *_with_ends("log_likelihood_nats_per_text", "log-likelihood", ".4f", Better.higher, unit="nats/text"),
    *_with_ends("bits_per_token", "", ".4f", Better.lower),
    *_with_ends("bits_per_byte", "", ".4f", Better.lower, head_words="bits\n/byte"),
    *_with_ends("perplexity", "", ".4f", Better.lower),
    *_with_ends("rank_1_share", "first choice of the model", ".2%", Better.higher),
    *_with_ends(
        "kl_nats_per_token", "KL to the reference", ".3g", Better.lower, unit="nats/token", head_words="KL\nnats/token"
    ),
    _metric("kl_truncation_nats_per_token", "KL beyond the kept tokens", ".2g", better=Better.lower, unit="nats/token"),
    _metric("kl_drawing_error_nats_per_token", "KL by drawn tokens, ±", ".2g", better=Better.lower, unit="nats/token"),
    *_with_ends("top_1_agreement", "top-1 agreement", ".2%", Better.higher, head_words="top-1\nagrees"),
    *(it for key in (*KL_SHARES, "kl_max_nats") for it in _with_ends(key, "", ".3g", Better.lower)),
    *(
        _metric(f"{key}_at_most", unit="nats", form=".3g", better=Better.lower, pooling=Pooling.dropped)
        for key in (*KL_SHARES, "kl_max_nats")
    ),
    *(
        it
        for key in ("delta_p_mean", "delta_p_rms", *DELTA_P_SHARES, "delta_p_smallest", "delta_p_largest")
        for it in _with_ends(key, "", ".3%", Better.neither)
    ),
    *_with_ends("ln_ppl_ratio", "ln(PPL / the reference's)", ".4f", Better.lower),
    _metric("ln_ppl_correlation", "correlation of log-likelihoods", ".2%", pooling=Pooling.dropped),
    *_with_ends("acc", "", ".1%", Better.higher),
    *_with_ends("acc_norm", "acc by characters", ".1%", Better.higher),
    *_with_ends("acc_bytes", "acc by bytes", ".1%", Better.higher),
    *_with_ends("acc_tokens", "acc by tokens", ".1%", Better.higher),
    # speed
    _metric("prefill_tok_per_s", form=",.0f", pooling=Pooling.per_token, tokens="computed_prompt_tokens"),
    _metric(
        "decode_tok_per_s", "", ",.0f", pooling=Pooling.per_token, tokens="new_tokens", axis_words="decode tokens/s"
    ),
    _metric("best_decode_tok_per_s", form=",.0f"),
    *(_metric(key, form=".0f") for key in ("best_batch_size", "best_prompt_tokens")),
    _metric("ttft_s", "time to first token", axis_words="time to first token, s"),
    _metric("best_ttft_s", "best time to first token"),
    *(_metric(f"ttft_{rank}_s", f"time to first token {rank}") for rank in RANKS),
    *(_metric(f"itl_{rank}_s", f"between tokens {rank}") for rank in RANKS),
    *(_metric(f"{phase}_gflop_per_s", form=",.1f") for phase in ("prefill", "decode")),
    _metric("decode_gb_per_s", "decoding reads", ",.1f"),
    _metric("matrix_gflop_per_s", "matrix rate of the machine", ",.0f", better=Better.neither),
    _metric("read_gb_per_s", "bandwidth of the machine", ",.1f", better=Better.neither),
    _metric("prefill_matrix_share", "prefill of the matrix rate", ".0%", better=Better.higher),
    _metric("decode_read_share", "decode of the bandwidth", ".0%", better=Better.higher),
    _metric("decode_matrix_share", "decode of the matrix rate", ".0%", better=Better.higher),
    _metric("energy_j", "energy", ",.1f", pooling=Pooling.sum),
    _metric("energy_j_per_token", "energy", ".3g"),
    _metric("noise", "quartiles of the speed apart", ".0%", better=Better.lower),
    *_counts(Better.neither, "cells"),
    *_counts(Better.lower, "cells_not_measured", "noisy_cells"),
    _metric("offered_requests_per_s", form=".3g", better=Better.neither),
    _metric("answered_requests_per_s", "answers", ".3g"),
    _metric("knee_requests_per_s", "knee", ".3g"),
    _metric("load_s", form=".2f"),
    _metric("import_s"),
    _metric("kernels_build_s"),
    _metric("seconds", form=",.1f", better=Better.lower, pooling=Pooling.sum),
    _metric("repeats"),
    _metric("output_tok_per_s", form=",.0f"),
    # from other tools: the prompt alone, prompt and answer together, a batch from its start to its end
    _metric("prompt_tok_per_s", form=",.0f"),
    _metric("total_tok_per_s", form=",.0f"),
    _metric("batch_latency_s"),
    _metric("best_output_tok_per_s", form=",.0f"),
    # a server elsewhere, a student and a teacher
    _metric("cost_usd", "cost USD", ".4f", better=Better.lower, pooling=Pooling.sum),
    *_counts(Better.neither, *(f"{who}_{what}" for who in ("student", "teacher") for what in OF_SIDES)),
    # a server of ours
    *_counts(Better.neither, "requests", "answered", "clients_left"),
    *_counts(Better.lower, "refused", "client_errors", "server_errors"),
    _metric("peak_rows", form=".0f"),
    _metric("served_s", form=",.1f", better=Better.neither, pooling=Pooling.sum),
    *(_metric(f"answer_{rank}_s", f"answer {rank}", ".3g") for rank in RANKS),
    # the model
    _metric("file_mib", "file", ",.2f"),
    _metric("parameters", form=",.0f"),
    _metric("weight_mib", form=",.2f", head_words="weights\nMiB"),
    *(_metric(key, form=".0f") for key in ("lora_modules", "lora_rank", "rope_pairs")),
    _metric("lora_delta_norm", form=".3g"),
    _metric("quantized_share", "quantized parameters in blocks", ".1%", better=Better.neither),
    _metric("quantized_share_of_all", "quantized parameters", ".1%", better=Better.neither),
    _metric("quantized_share_of_bytes", "quantized bytes", ".1%", better=Better.neither),
    _metric("quantized_share_of_wanted", "quantized parameters of those named", ".1%", better=Better.neither),
    *map(_metric, ("quantized_modules", "unquantized_linears", "lora_parameters", "rope_pairs_patched")),
    *map(_metric, ("vocab_size", "max_positions", "base_loads")),
    # memory
    _metric("peak_rss_mib", "peak RSS", ",.0f"),
    _metric("load_peak_rss_mib", "peak RSS of the load", ",.0f"),
    _metric("load_rss_mib", "RSS after the load", ",.0f"),
    _metric("sum_peak_rss_mib", "peak RSS of all processes"),
    _metric("model_mib", "model's memory", ",.2f", head_words="memory\nMiB", axis_words="the model's own memory, MiB"),
    _metric("kv_peak_mib", "KV cache at its peak", ",.2f"),
    _metric("activation_mib", "activations of the largest pass", ",.2f"),
    _metric("unpacked_mib", "unpacked copy of a weight", ",.2f"),
    _metric("cuda_peak_mib", "peak GPU", axis_words="peak GPU memory, MiB"),
    _metric("gpu_mib", "GPU", ",.0f"),
    _metric("load_peak_gpu_mib", "peak GPU of the load", ",.0f"),
    *map(_metric, ("cuda_reserved_mib", "cuda_steady_mib", "steady_rss_mib", "rss_growth_mib", "pss_mib")),
    *map(_metric, ("mapped_files_mib", "baseline_mib", "baseline_anon_mib")),
    *(_metric(f"{stage}_peak_rss_mib") for stage in ("prefill", "decode")),
    *(_metric(f"{stage}_steady_rss_mib") for stage in ("load", "prefill", "decode")),
    *map(_metric, ("load_peak_anon_mib", *(f"{stage}_steady_anon_mib" for stage in ("load", "prefill", "decode")))),
    *(_metric(key, form=",.0f") for key in ("peak_over_baseline_mib", "predicted_total_mib", "predicted_load_mib")),
    *(_metric(key, form=",.2f") for key in ("predicted_weight_mib", "mapped_weight_mib", "kv_cache_mib", "kv_mib")),
    *(_metric(f"{part}_held_mib") for part in ("weights", "activation", "runtime")),
    *(_metric(f"{by}kv_per_1000_tokens_mib", form=",.3f", better=Better.neither) for by in ("", "predicted_")),
    *(_metric(f"predicted_{part}_mib", better=Better.neither) for part in ("weights_held", "activation", "runtime")),
    *(_metric(f"{what}_prediction_error", form="+.1%") for what in ("weight", "kv", "total")),
    *_counts(Better.neither, "points"),
    *_counts(Better.lower, "points_not_measured"),
    # a checkpoint in parts, and a pipeline of processes
    *(_metric(key, form=",.0f") for key in ("num_parts", "written_parts")),
    _metric("largest_part_mib", form=",.1f"),
    _metric("written_mib", form=",.1f", better=Better.neither),
    _metric("stored_mib", "on disk"),
    _metric("balance", form=".3f", better=Better.lower),
    _metric("share", better=Better.lower),
    _metric("problems", better=Better.lower),
    _metric("write_gb_per_s", form=".2f"),
    *map(_metric, ("tensors", "files", "total_params", "split_s", "archive_mib")),
    *map(_metric, ("raw_mib_per_s", "read_mib_per_s", "write_mib_per_s")),
    *(_metric(key, better=Better.neither) for key in ("unique_mib", "merged_mib", "raw_mib", "read_mib")),
    _metric("processes", form=".0f"),
    _metric("bubble_share", form=".0%", better=Better.lower),
)
METRICS = {metric.key: metric for metric in _EVERY}

# Which metrics are shown where, in this order.
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")
# The columns of a grid that any of its jobs has measured: first the purpose of the tasks, then what most tasks have.
OF_GRID = (
    "n",
    "acc",
    "acc_norm",
    LOG_LIKELIHOOD,
    "kl_nats_per_token",
    "calls",
    "prompt_tokens_per_question",
    "new_tokens_per_question",
    "best_decode_tok_per_s",
    "best_output_tok_per_s",
    "best_ttft_s",
    "decode_tok_per_s",
    "cost_usd",
)
OF_ANY_TASK = ("weight_mib", "peak_rss_mib", "seconds")
MAX_OF_ONE = 3  # columns for a job without a metric of OF_GRID: the first ones of its own table
# The columns of a comparison of accuracies. On a narrow terminal those with the highest numbers go first; 0 stays.
OF_SCORED = {"no_answer": 0, "cut_off": 0, **dict.fromkeys(OF_QUESTION, 0), "weight_mib": 4, "stored_mib": 4,
             "model_mib": 0, "peak_rss_mib": 4, "play_s": 0, "decode_tok_per_s": 0, "load_s": 3,
             "new_tokens": 2}  # fmt: skip
SHOWN_IF_ANY = ("no_answer", "cut_off")  # not shown if they are 0 in every row
# The columns of any other comparison: first the purpose of the tasks, then what most tasks have.
HEADLINES = ("best_decode_tok_per_s", "best_output_tok_per_s", "best_ttft_s", "best_batch_size", "load_peak_rss_mib",
             "steady_rss_mib", "peak_over_baseline_mib", "predicted_total_mib", "largest_part_mib", "stored_mib",
             "weight_mib", "peak_rss_mib", "load_s", "prefill_tok_per_s", "decode_tok_per_s", "seconds")  # fmt: skip
# The axes of the Pareto front besides the accuracy, and their names there.
FRONT = {"model_mib": "memory", "decode_tok_per_s": "speed"}


# `1 answers` in a line of a job's table: the word's beginning, and what becomes another end
ONE_OF_MANY = re.compile(
    r"(?<![\w.,])1 (answer|call|client|error|famil|layer|module|part|process|program|prompt token|question|row|text|tie"
    r"|token|verdict)(s differ|es|ies|s)\b"
)
SINGULAR_ENDS = {"s differ": " differs", "ies": "y"}


@dataclass(frozen=True)
class Line:
    """One line of a job's table: its label, and a text that names metrics in braces."""

    label: str
    text: str
    common: bool = False  # most tasks have it, so it does not characterize a job
    brief: bool = False  # included in the one line that a job of a grid gets
    unless_zero: str = ""  # a metric; the line is left out if it is missing or 0

    @property
    def names(self) -> set[str]:
        """The metrics that the text names."""
        return {name for _, name, _, _ in Formatter().parse(self.text) if name}

    def fits(self, metrics: Mapping[str, float]) -> bool:
        """Whether all metrics that it names are there, and the line is not left out as empty."""
        return self.names <= metrics.keys() and (not self.unless_zero or bool(metrics.get(self.unless_zero)))

    def write(self, metrics: Mapping[str, float]) -> str:
        """Return the text with the values of the metrics that it names."""
        text = self.text.format(**{name: described(name).write(metrics[name]) for name in self.names})
        return ONE_OF_MANY.sub(lambda it: f"1 {it[1]}{SINGULAR_ENDS.get(it[2], '')}", text)


def _interval(name: str, words: str = "95 % interval") -> str:
    """Return the ends of a number's interval, as metrics to fill in."""
    return f"   {words} {{{name}_low}} – {{{name}_high}}"


KL, KL_INTERVAL = "{kl_nats_per_token} nats/token", _interval("kl_nats_per_token")
PREFILL, DECODE = "prefill {prefill_tok_per_s} tok/s", " · decode {decode_tok_per_s} tok/s"
FASTEST_ANSWERED = "{best_output_tok_per_s} tok/s answered, batch {best_batch_size}, prompt {best_prompt_tokens}"
LINES = (
    *(
        Line("accuracy", f"{{accuracy}}{_interval('accuracy')}   n = {n}", brief=True)
        for n in (
            "{n}",
            "{n} in {families} families",
            "{n}, mean of {answers_each} answers",
            "{n} in {families} families, mean of {answers_each} answers",
        )
    ),
    Line(
        "without limit",
        "{accuracy_cut_off_wrong} – {accuracy_cut_off_right} (all cut off wrong – all right)"
        + _interval("accuracy_uncut"),
    ),
    Line("of all asked", "{accuracy_all}" + _interval("accuracy_all") + "   n = {n_all}"),
    *(
        Line("verdicts", "{correct} correct · {wrong} wrong · {no_answer} no answer · {cut_off} cut off" + whose)
        for whose in ("", ", by the vote of {answers_each} answers · {tied_votes} ties")
    ),
    Line(
        "orders",
        "of {questions_in_all_orders} questions {same_in_all_orders_share} have the same choice in all orders of their "
        "choices · {right_in_all_orders_share} are right in all",
    ),
    Line(
        "position bias",
        "{position_bias_points} points" + _interval("position_bias_points") + "   p = {position_bias_p}",
    ),
    Line(
        "trust",
        "strict {accuracy/strict} · flexible {accuracy/flexible} · {extractors_differ} verdicts differ · "
        "{stopped_by_length} stopped by length",
    ),
    Line(
        "thinking",
        "{thinking_tokens_per_answer} tokens an answer · {answer_tokens_per_answer} for the answer itself · "
        "in {thought_share} of the answers",
    ),
    Line(
        "endings",
        "{endings/closed} closed · {endings/budget_spent} budget spent · {endings/cut_off_thinking} cut off while "
        "thinking · {endings/cut_off_answer} cut off in the answer · {endings/no_thinking} without thinking",
    ),
    Line(
        "asked again",
        "{asked_again} questions: {texts_changed} texts changed ({texts_changed_share}) · {answers_changed} answers",
    ),
    Line("twins", "{twins}: originals {originals_correct} right · twins {twins_correct} right · p = {twins_p}"),
    *(
        Line(
            "difference",
            "{early_stop_difference_points} points"
            + _interval("early_stop_difference_points", f"always-valid {confidence} % interval")
            + "   {early_stop_wins} won · {early_stop_losses} lost of {questions_asked}"
            + whose,
            brief=True,
        )
        for whose in ("", ", by the vote of {answers_each} answers")
        for confidence in ("95", "{early_stop_confidence_percent}")
    ),
    Line("accuracy", "{acc}" + _interval("acc") + "   n = {n}", brief=True),
    Line("normalized", "by characters (acc_norm) {acc_norm} · by bytes {acc_bytes} · by tokens {acc_tokens}"),
    *(
        Line("log-likelihood", "{log_likelihood_nats_per_token} nats/token" + interval + "   n = {n}", brief=True)
        for interval in ("", _interval(LOG_LIKELIHOOD))
    ),
    Line("bits", "{bits_per_byte} a byte · {bits_per_token} a token   {scored_tokens} tokens · {scored_bytes} bytes"),
    *(Line("perplexity", "{perplexity} a token" + interval) for interval in ("", _interval("perplexity"))),
    Line("rank 1", "{rank_1_share} of the tokens are the model's first choice"),
    *(
        Line("KL", text, brief=True, unless_zero=unless_zero)
        for text, unless_zero in (
            (KL, ""),
            (KL + ", at most {kl_truncation_nats_per_token} more", "kl_truncation_nats_per_token"),
            (KL + KL_INTERVAL, ""),
            (KL + KL_INTERVAL + ", and at most {kl_truncation_nats_per_token} more", "kl_truncation_nats_per_token"),
            ("{kl_nats_per_token} ± {kl_drawing_error_nats_per_token} nats/token", "kl_drawing_error_nats_per_token"),
            (
                KL + KL_INTERVAL + ", of these texts alone ± {kl_drawing_error_nats_per_token}",
                "kl_drawing_error_nats_per_token",
            ),
        )
    ),
    Line("agreement", "{top_1_agreement} of the tokens have the reference's first choice"),
    Line("completions", "{n}   {stopped} ended · {cut_off} cut off · {errors} errors"),
    Line(
        "requests",
        "{requests}   {answered} answered · {refused} sent away · {clients_left} clients left · "
        "{client_errors} wrong · {server_errors} failed",
    ),
    Line("answers", "p50 {answer_p50_s} s · p95 {answer_p95_s} s · p99 {answer_p99_s} s · {peak_rows} rows at once"),
    Line("tokens", "{prompt_tokens} prompt · {new_tokens} new"),
    Line(
        "tokens",
        "{prompt_tokens} prompt, {computed_prompt_tokens} of them computed · {new_tokens} new",
        unless_zero="shared_prompt_tokens",
    ),
    Line("team", "{calls} calls · {code_failed} programs failed"),
    Line("team", "{calls} calls · {code_failed} programs failed · {shared_prompt_tokens} prompt tokens shared"),
    Line("samples", "{samples_per_question} a question"),
    Line("samples", "{samples_per_question} a question, for the {match_tokens} tokens of the job that is matched"),
    Line("a question", "{prompt_tokens_per_question} prompt · {new_tokens_per_question} new tokens"),
    Line(
        "training",
        "{train_solved} of {train_questions} questions solved · {train_prompt_tokens} prompt · {train_new_tokens} new "
        "tokens",
    ),
    Line("edges", "spatial {spatial_edges_before} → {spatial_edges_after}"),
    Line(
        "edges",
        "spatial {spatial_edges_before} → {spatial_edges_after} · temporal {temporal_edges_before} → "
        "{temporal_edges_after}",
    ),
    *(
        Line(
            "attack",
            followed + "{attacked_prompt_tokens} prompt · {attacked_new_tokens} new tokens of the attacked agent · its "
            "edges {attacked_edges_before} → {attacked_edges_after} · the others' vote {honest_accuracy}",
        )
        for followed in ("", "followed {followed_attack} of {told_lies} lies · ")
    ),
    Line("speed", PREFILL, brief=True),
    Line("speed", PREFILL + DECODE, brief=True, unless_zero="decode_tok_per_s"),
    Line(
        "speed",
        PREFILL + DECODE + " · {accepted_tokens} of {draft_tokens} guessed tokens right",
        brief=True,
        unless_zero="draft_tokens",
    ),
    Line(
        "fastest cell", "{best_decode_tok_per_s} tok/s decoding, batch {best_batch_size}, prompt {best_prompt_tokens}"
    ),
    Line("fastest cell", FASTEST_ANSWERED),
    Line("fastest cell", FASTEST_ANSWERED + " · first token after {best_ttft_s} s at best", brief=True),
    Line("the machine", "products {matrix_gflop_per_s} GFLOP/s · reads {read_gb_per_s} GB/s"),
    Line("knee", "{knee_requests_per_s} requests/s"),
    *(
        Line(who, f"{{{who}_answers}} answers · {{{who}_calls}} calls · {{{who}_new_tokens}} new tokens")
        for who in ("student", "teacher")
    ),
    Line("cost", "{cost_usd} USD", brief=True),
    Line("parts", "{num_parts}, the largest {largest_part_mib} MiB: {balance} of an even share"),
    Line("written", "{written_parts} parts, {written_mib} MiB"),
    Line("copying", "{write_gb_per_s} GB/s, hashed on the way"),
    Line("pipeline", "{num_parts} parts in {processes} processes · {bubble_share} of their time without work"),
    Line("load_s", "{load_s}", common=True),
    Line("weight_mib", "{weight_mib}", common=True),
    Line(
        "model_mib",
        "{model_mib}   weights {weight_mib} · KV cache {kv_peak_mib} · activations {activation_mib}",
        common=True,
    ),
    Line("peak_rss_mib", "{peak_rss_mib}", common=True, brief=True),
    Line("over the import", "{peak_over_baseline_mib} MiB measured · {predicted_total_mib} MiB predicted"),
    Line("held", "weights {weights_held_mib} · activations {activation_held_mib} · runtime {runtime_held_mib} MiB"),
    Line("predicted", "weights {predicted_weight_mib} MiB · KV cache {kv_cache_mib} MiB"),
    Line(
        "KV cache",
        "{kv_per_1000_tokens_mib} MiB for 1,000 tokens of a row, {kv_per_1000_tokens_mib_min} – "
        "{kv_per_1000_tokens_mib_max} · by formula {predicted_kv_per_1000_tokens_mib}",
    ),
    Line("lora", "{lora_modules} modules · rank {lora_rank} · norm of the delta {lora_delta_norm}"),
    Line("seconds", "{seconds}", common=True, brief=True),
)


def grid_columns(jobs: Sequence[Mapping[str, float]]) -> list[Metric]:
    """Return the metrics that the table of a grid shows: those that any of its jobs has measured."""
    shown = [key for key in OF_GRID if any(key in job for job in jobs)]
    shown[1:1] = of_all_answers(jobs) if "n" in shown else []
    for job in jobs:
        if shown and any(key in job for key in shown):
            continue
        lines = [line.text for line in LINES if line.fits(job) and not line.common]
        named = [name for text in lines for _, name, _, _ in Formatter().parse(text) if name]
        shown += list(dict.fromkeys(name for name in named if name in METRICS and name not in OF_ANY_TASK))[:MAX_OF_ONE]
    shown += [key for key in of_plug_ins(jobs) if key not in shown]
    shown += [key for key in OF_ANY_TASK if key not in shown and any(key in job for job in jobs)]
    return [described(key) for key in shown]


def described(key: str) -> Metric:
    """Return the metric of a key, also for a cell (`ttft_s/batch_4_prompt_64`) or a spread (`…_max`).

    A key that neither this list nor a plug-in describes is described by its unit.
    """
    base, _, cell = key.partition("/")
    if base in BY_ANSWERS and cell:
        return replace(METRICS[base], key=key, label=BY_ANSWERS[base].format(cell))
    for name in (base, *(base.removesuffix(suffix) for suffix in SPREADS)):
        if name in METRICS:
            return METRICS[name]
        if name in plug_ins("metric"):
            return of_plug_in(name) or _metric(base)
    return _metric(base)


def of_all_answers(jobs: Iterable[Mapping[str, float]]) -> list[str]:
    """Return pass@k and maj@k over all answers that jobs have to each question: they stand beside the accuracy."""
    jobs = list(jobs)
    counts = sorted({f"{job['answers_each']:.0f}" for job in jobs if job.get("answers_each", 1) > 1}, key=int)
    keys = [f"{key}/{count}" for count in counts for key in ("pass_at_k", "maj_at_k")]
    return [key for key in keys if any(key in job for job in jobs)]


def of_plug_ins(jobs: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the metrics of plug-ins that any job has."""
    names = [name for name in plug_ins("metric") if name not in METRICS]
    return [name for name in names if any(name in job for job in jobs)] if names else []


@cache
def of_plug_in(name: str) -> Metric | None:
    """Return a plug-in's description of a metric; None, with a warning, if it cannot be imported."""
    try:
        return load_object("metric", name, Metric)
    except ConfigError as error:
        say(f"warning: {error}")
        return None


def score(metrics: Mapping[str, float]) -> tuple[int, int] | None:
    """Return how many answers were right, of how many; None if a run counted none, or says what no count can be."""
    correct, n = (metrics.get(key, math.nan) for key in ("correct", "n"))
    if not 0 <= correct <= n < math.inf:  # nor where one is no number
        return None
    return int(correct), int(n)


def pool(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of several runs together: those that all of them have."""
    parts = list(runs)
    pooled = {}
    shared = [key for key in parts[0] if all(key in part for part in parts)]
    for key in shared:
        values, metric = [part[key] for part in parts], described(key)
        match metric.pooling:
            case Pooling.sum:
                pooled[key] = sum(values)
            case Pooling.max:
                pooled[key] = max(values)
            case Pooling.per_token if metric.tokens in shared and all(values):
                tokens = [part[metric.tokens] for part in parts]
                pooled[key] = sum(tokens) / sum(count / speed for count, speed in zip(tokens, values, strict=True))
            case Pooling.mean | Pooling.per_token:
                pooled[key] = sum(values) / len(values)
            case Pooling.dropped:
                pass
    scored = score(pooled)
    return pooled | ({"accuracy": scored[0] / scored[1]} if scored and scored[1] else {})
