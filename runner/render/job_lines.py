"""Defines the lines of a job's result table, and selects the columns of a grid's table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import Formatter

from runner_compare import (
    LOG_LIKELIHOOD,
    Metric,
    find_metric,
    known_metrics,
    list_max_k_vote_metric_keys,
    plug_in_metric_keys,
)

# The columns of a grid that any of its jobs has measured: first the purpose of the tasks, then what
# most tasks have.
OF_GRID = (
    "n",
    "effective_length_tokens_low",
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
    "joules_per_right_answer",
    "energy_cost",
)
OF_ANY_TASK = ("weight_mib", "peak_rss_mib", "seconds")
PERCENT = re.compile(r"(?<=\d)%")
# headings of the columns in tables of a job's rows, where a key of the rows needs another word
ROW_HEADINGS = {
    "kv_mib": "KV cache MiB",
    "spread": "peak range MiB",
    "prefill_spread": "prefill min–max",
    "decode_spread": "decode min–max",
    "output_spread": "output min–max",
    "noise": "speed IQR/median",
    "peak_rss_mib": "runner's peak RSS MiB",
    "how_often": "with this reason",
    "error": "prediction error",
    "rss_mib": "RSS MiB",
    "activation_mib": "activations and buffers MiB",
    "runtime_mib": "libraries and runtime MiB",
    "mib": "MiB",
    "mb": "MB",
    "mb_per_s": "MB/s",
}
MAX_OF_ONE = 3  # columns for a job without a metric of OF_GRID: the first ones of its own table


@dataclass(frozen=True)
class TableLine:
    """Line of a job's result table. `text` is a template with metric names in braces.

    A noun after a metric agrees with its number: `{errors:error}`, `{processes:process|processes}`.
    """

    label: str
    text: str
    common: bool = False  # most tasks have it, so it does not characterize a job
    detail: bool = False  # only print=full shows it
    unless_zero: str = ""  # a metric; the line is left out if it is missing or 0

    @property
    def metric_names(self) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(self.text) if name}

    def has_values(self, metrics: Mapping[str, float]) -> bool:
        return self.metric_names <= metrics.keys() and (
            not self.unless_zero or bool(metrics.get(self.unless_zero))
        )

    def format_line(self, metrics: Mapping[str, float]) -> str:
        parts = []
        for literal, name, nouns, _ in Formatter().parse(self.text):
            value = find_metric(name).format_value(metrics[name]) if name else ""
            parts += [literal, _with_plural_noun(value, nouns) if nouns else value]
        return PERCENT.sub(" %", "".join(parts))


def _with_plural_noun(number: str, nouns: str) -> str:
    one, _, many = nouns.partition("|")
    return f"{number} {one if number == '1' else many or one + 's'}"


def _interval_template(metric: str, label: str = "95 % interval") -> str:
    return f"   {label} [{{{metric}_low}}, {{{metric}_high}}]"


KL, KL_INTERVAL = "{kl_nats_per_token} nats/token", _interval_template("kl_nats_per_token")
BY_VOTE = " · by vote of {answers_each:answer}, {tied_votes:tie} (the first number counts)"
STOPPED = "questions_left"  # a metric of a job that may stop early: above 0 if it did
PREFILL, DECODE = "prefill {prefill_tok_per_s} tok/s", "decode {decode_tok_per_s} tok/s"
ENERGY = "{energy_net_j} J in addition to the idle power of {idle_w} W"
PHASES = " · prefill {energy_prefill_j} J, decode {energy_decode_j} J"
PER_ANSWER = " · {joules_per_right_answer} J per correct answer"
SPATIAL_EDGES = "{spatial_edges_before} → {spatial_edges_after} within a round (spatial)"
AT_BEST = "at batch size {best_batch_size} and {best_prompt_tokens} prompt tokens"
FASTEST_ANSWERED = f"{{best_output_tok_per_s}} tok/s in whole answers {AT_BEST}"
LINES = (
    *(
        TableLine("accuracy", f"{{accuracy}}{_interval_template('accuracy')}   {n}", detail=detail)
        for n, detail in (
            ("{n:question}", False),
            ("{n:question}, mean of {answers_each:answer}", False),
            ("{n:question} in {families:cluster} (task.cluster)", False),
            ("{n:question} in {families:cluster} (task.cluster), mean of {answers_each:answer}", False),
        )
    ),
    TableLine(
        "bounds",
        "{accuracy_cut_off_wrong} to {accuracy_cut_off_right} (cut-off answers counted as wrong, or as correct)"
        + _interval_template("accuracy_uncut"),
    ),
    TableLine(
        "tool calls",
        "{calls_per_scenario} per scenario ({failed_calls_per_scenario} failed), in {turns_per_scenario} answers",
    ),
    TableLine("all questions", "{accuracy_all}" + _interval_template("accuracy_all") + "   {n_all:question}"),
    *(
        TableLine(
            "answers",
            "{correct} correct · {wrong} wrong · {no_answer} without an answer · {cut_off} cut off" + whose,
        )
        for whose in ("", BY_VOTE)
    ),
    TableLine("loose", "{prompt_loose_accuracy}" + _interval_template("prompt_loose_accuracy")),
    *(
        TableLine(
            "instructions",
            f"{{instruction_{rule}_accuracy}} {rule}"
            + _interval_template(f"instruction_{rule}_accuracy")
            + "   {instructions:instruction}",
            detail=rule == "loose",
        )
        for rule in ("strict", "loose")
    ),
    TableLine(
        "programs",
        "{programs/passed} passed · {programs/failed} failed a test · {programs/error} raised an error · "
        "{programs/timeout} timed out · {programs/no_program:answer} without a program",
    ),
    TableLine(
        "stopped",
        "{programs/out_of_memory} out of memory · {programs/too_much_output} printed too much · "
        "{programs/refused} refused by the sandbox",
        detail=True,
    ),
    TableLine(
        "choice orders",
        "{same_in_all_orders_share} of {questions_in_all_orders:question} get equal answers in all orders · "
        "{right_in_all_orders_share} are correct in all orders",
    ),
    TableLine(
        "position bias",
        "{position_bias_points} points"
        + _interval_template("position_bias_points")
        + "   p = {position_bias_p}",
    ),
    TableLine(
        "extraction",
        "strict extractor {accuracy/strict} · flexible extractor {accuracy/flexible} · "
        "{extractors_differ:verdict differs|verdicts differ} · {stopped_by_length} ended at the token limit",
        detail=True,
    ),
    TableLine(
        "thinking",
        "{thinking_tokens_per_answer:token} per answer · {answer_tokens_per_answer} after the thinking · "
        "{thought_share} of the answers contain thinking",
    ),
    TableLine(
        "endings",
        "{endings/closed} thinking closed · {endings/budget_spent} budget spent · "
        "{endings/cut_off_thinking} cut off while thinking · {endings/cut_off_answer} cut off in the answer · "
        "{endings/no_thinking} without thinking",
        detail=True,
    ),
    TableLine(
        "batch invariance",
        "{asked_again:question} asked again in another batch: {texts_changed:output differs|outputs differ} "
        "({texts_changed_share}) · {answers_changed:result differs|results differ}",
    ),
    TableLine(
        "contamination",
        "{twins:question} in two versions: {originals_correct} correct with the original numbers · "
        "{twins_correct} correct with changed numbers · McNemar p = {twins_p}",
    ),
    *(
        TableLine(
            "difference",
            "{early_stop_difference_points} points"
            + biased
            + _interval_template("early_stop_difference_points", f"anytime-valid {confidence} % interval"),
            unless_zero=unless_zero,
        )
        for confidence in ("95", "{early_stop_confidence_percent}")
        for biased, unless_zero in (("", ""), (" (biased by the early stop: use the interval)", STOPPED))
    ),
    *(
        TableLine(
            "discordant",
            "correct only in this job {early_stop_wins} · only in the baseline {early_stop_losses} · "
            "of {questions_asked:question}" + whose,
        )
        for whose in ("", ", by vote of {answers_each:answer}")
    ),
    TableLine("chance", "{chance} (a random choice)"),
    TableLine(
        "accuracy by",
        "log-likelihood (acc) {acc} · per character (acc_norm) {acc_norm} · per byte (acc_bytes) {acc_bytes}",
        unless_zero="chance",
    ),
    TableLine("gold choice", "mean probability {gold_probability}" + _interval_template("gold_probability")),
    TableLine(
        "letters",
        "{letters/whole} at the beginning · {letters/stated} stated · {letters/only_letter} by the only letter · "
        "{letters/choice_text} by the choice's text",
    ),
    TableLine(
        "accuracy", "{acc}" + _interval_template("acc") + "   {n:question}", unless_zero="scored_tokens"
    ),
    TableLine(
        "normalized", "by characters (acc_norm) {acc_norm} · by bytes {acc_bytes} · by tokens {acc_tokens}"
    ),
    *(
        TableLine(
            "log-likelihood", "{log_likelihood_nats_per_token} nats/token" + interval + "   {n:document}"
        )
        for interval in ("", _interval_template(LOG_LIKELIHOOD))
    ),
    TableLine(
        "bits",
        "{bits_per_byte} per byte · {bits_per_token} per token   {scored_tokens:token} · {scored_bytes} bytes",
        detail=True,
    ),
    *(
        TableLine("perplexity", "{perplexity} per token" + interval)
        for interval in ("", _interval_template("perplexity"))
    ),
    TableLine(
        "first choice", "{rank_1_share} of the tokens are the model's most probable token", detail=True
    ),
    *(
        TableLine("KL", text, unless_zero=unless_zero)
        for text, unless_zero in (
            (KL, ""),
            (KL + ", at most {kl_truncation_nats_per_token} more", "kl_truncation_nats_per_token"),
            (KL + KL_INTERVAL, ""),
            (
                KL + KL_INTERVAL + ", and at most {kl_truncation_nats_per_token} more",
                "kl_truncation_nats_per_token",
            ),
            (
                "{kl_nats_per_token} ± {kl_drawing_error_nats_per_token} nats/token",
                "kl_drawing_error_nats_per_token",
            ),
            (
                KL + KL_INTERVAL + ", for these documents alone ± {kl_drawing_error_nats_per_token}",
                "kl_drawing_error_nats_per_token",
            ),
            *(
                (KL + interval + ", estimated from sampled tokens: too few for ±", "kl_drawn_tokens")
                for interval in ("", KL_INTERVAL)
            ),
        )
    ),
    TableLine(
        "agreement", "{top_1_agreement} of the tokens have the same most probable token as the reference"
    ),
    TableLine("completions", "{n} in total · {stopped} finished · {cut_off} cut off · {errors:error}"),
    TableLine(
        "requests",
        "{requests} in total · {answered} answered · {refused} refused · "
        "{clients_left} cancelled by the client · {client_errors} invalid · {server_errors} failed",
    ),
    TableLine(
        "answer time",
        "p50 {answer_p50_s} s · p95 {answer_p95_s} s · p99 {answer_p99_s} s · up to {peak_rows:sequence} in a batch",
    ),
    TableLine(
        "degenerate",
        "{degenerate:answer}, {degenerate_share}"
        + _interval_template("degenerate_share")
        + "   {loops:loop} · {script_changes:script change} · {broken_characters} with broken characters · "
        "{empty_answers} empty",
        unless_zero="degenerate",
    ),
    TableLine(
        "repetition",
        "{repeated_ngram_share} of 4-word sequences occurred before · {distinct_word_share} of words are distinct",
        detail=True,
    ),
    TableLine("tokens", "{prompt_tokens} prompt tokens · {new_tokens} new tokens", detail=True),
    TableLine(
        "tokens",
        "{prompt_tokens} prompt tokens ({computed_prompt_tokens} computed) · {new_tokens} new tokens",
        unless_zero="shared_prompt_tokens",
        detail=True,
    ),
    TableLine("team", "{calls:model call} · {code_failed:program} failed"),
    TableLine(
        "team",
        "{calls:model call} · {code_failed:program} failed · {shared_prompt_tokens:shared prompt token}",
    ),
    TableLine("samples", "{samples_per_question} per question"),
    TableLine(
        "per question", "{prompt_tokens_per_question} prompt tokens · {new_tokens_per_question} new tokens"
    ),
    TableLine(
        "training",
        "{train_solved} of {train_questions:answer} correct · {train_prompt_tokens} prompt tokens · "
        "{train_new_tokens} new tokens",
    ),
    *(
        TableLine("agent graph", f"edges before → after training: {SPATIAL_EDGES}{temporal}")
        for temporal in ("", " · {temporal_edges_before} → {temporal_edges_after} between rounds (temporal)")
    ),
    TableLine("speed", PREFILL),
    TableLine("speed", f"{DECODE} · {PREFILL}", unless_zero="decode_tok_per_s"),
    TableLine(
        "speed",
        f"{DECODE} · {PREFILL} · {{accepted_tokens}} of {{draft_tokens}} draft tokens accepted",
        unless_zero="draft_tokens",
        detail=True,
    ),
    TableLine("fastest", f"decode {{best_decode_tok_per_s}} tok/s {AT_BEST}"),
    TableLine("fastest", FASTEST_ANSWERED),
    TableLine("fastest", FASTEST_ANSWERED + " · first token after {best_ttft_s} s at best"),
    TableLine("machine limits", "matmul {matrix_gflop_per_s} GFLOP/s · memory {read_gb_per_s} GB/s"),
    *(
        TableLine(who, f"{{{who}_answers:answer}} · {{{who}_calls:call}} · {{{who}_new_tokens}} new tokens")
        for who in ("student", "teacher")
    ),
    TableLine("cost", "{cost_usd} USD"),
    TableLine("energy", ENERGY),
    TableLine("energy", ENERGY + PHASES),
    TableLine("energy", ENERGY + PER_ANSWER),
    TableLine("energy", ENERGY + PHASES + PER_ANSWER),
    TableLine("energy cost", "{energy_cost} for {energy_wh} Wh, idle power included"),
    TableLine("parts", "{num_parts} parts · largest {largest_part_mib} MiB, {balance} × the mean size"),
    TableLine("written", "{written_parts:part}, {written_mib} MiB"),
    TableLine("copying", "{write_gb_per_s} GB/s, including the hash"),
    TableLine(
        "pipeline", "{num_parts:part} in {processes:process|processes} · idle {bubble_share} of the time"
    ),
    TableLine("load time", "{load_s} s", common=True, detail=True),
    TableLine("weights", "{weight_mib} MiB", common=True, detail=True),
    TableLine(
        "model memory",
        "{model_mib} MiB   weights {weight_mib} · KV cache {kv_peak_mib} · activations {activation_mib}",
        common=True,
    ),
    TableLine("process memory", "{peak_rss_mib} MiB at most", common=True, detail=True),
    TableLine("peak memory", "{peak_over_baseline_mib} MiB measured · {predicted_total_mib} MiB predicted"),
    TableLine(
        "measured",
        "weights {weights_held_mib} · KV cache {kv_held_mib} · activations {activation_held_mib} · "
        "runtime {runtime_held_mib} MiB",
    ),
    TableLine(
        "predicted",
        "weights {predicted_weights_held_mib} · KV cache {kv_cache_mib} · activations {predicted_activation_mib} · "
        "runtime {predicted_runtime_mib} MiB",
    ),
    TableLine(
        "KV cache",
        "{kv_per_1000_tokens_mib} MiB per 1,000 tokens ({kv_per_1000_tokens_mib_min} to "
        "{kv_per_1000_tokens_mib_max}) · {predicted_kv_per_1000_tokens_mib} MiB by formula",
    ),
    TableLine(
        "lora",
        "{lora_modules:module} · rank {lora_rank} · norm of the weight change {lora_delta_norm}",
        detail=True,
    ),
    TableLine("time", "{seconds} s", common=True),
)


def format_row_heading(key: str) -> str:
    return ROW_HEADINGS.get(key) or key.replace("_mib", " MiB").replace("_", " ")


def select_grid_table_metrics(jobs: Sequence[Mapping[str, float]]) -> list[Metric]:
    shown = [key for key in OF_GRID if any(key in job for job in jobs)]
    shown[1:1] = list_max_k_vote_metric_keys(jobs) if "n" in shown else []
    for job in jobs:
        if shown and any(key in job for key in shown):
            continue
        lines = [line.text for line in LINES if line.has_values(job) and not line.common]
        named = dict.fromkeys(name for text in lines for _, name, _, _ in Formatter().parse(text) if name)
        own = [name for name in named if name in known_metrics() and name not in OF_ANY_TASK]
        shown += own[:MAX_OF_ONE]
    shown += [key for key in plug_in_metric_keys(jobs) if key not in shown]
    shown += [key for key in OF_ANY_TASK if key not in shown and any(key in job for job in jobs)]
    return [
        replace(find_metric(key), label=_choose_sample_count_heading(jobs))
        if key == "n"
        else find_metric(key)
        for key in shown
    ]


def _choose_sample_count_heading(jobs: Sequence[Mapping[str, float]]) -> str:
    """Return the heading of the column with the number of samples, such as `questions`."""
    nouns = (
        "documents" if LOG_LIKELIHOOD in job else "questions" if "correct" in job else "answers"
        for job in jobs
        if "n" in job
    )
    return "/\n".join(dict.fromkeys(nouns))
