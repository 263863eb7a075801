"""Message templates of notes on answers: reuse, reliability, and comparisons of scored texts."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import fixed_decimals_formatter, format_against_limit, format_count, join_first_names
from runner_base.render.notes import Template
from runner_compare.statistics import LIMIT

MAX_NAMED_TEXTS, MAX_NAMED_ANSWERS = 8, 3

# ----------------------------------------------------------------------- answers: stored, reused, repeated


def _asked_again_text(count: int) -> str:
    were = format_count(count, "question was", "questions were")
    return f"{were} asked again, because the request failed in an earlier run"


def _explain_missing_document_prompt(
    number: int, window: int, last: int | None, contexts: Sequence[str]
) -> str:
    how = f"the document is scored in windows of {window} tokens"
    if last is not None:
        how = f"the last {last} tokens are scored with {', '.join(contexts)} tokens of context"
    return f"document {number} has no prompt: {how}"


ANSWERS: dict[str, Template] = {
    "samples_on_disk": "{count} of {total} samples come from an earlier, interrupted run of this job",
    "asked_again_after_error": _asked_again_text,
    "samples_reused": "{count} of {total} samples are reused from job {job}, which asked the same questions. Their "
    "time, speed and cost are not counted in this job",
    "not_reused": "no answers were reused from job {job}: {reason}",
    "thoughts_reused": "{count} answers reuse the thinking of job {job}, which differs only in its thinking budget. "
    "The time of that thinking is not counted here. {asked_directly} other questions were asked from the start, and "
    "their thinking was the same",
    "thoughts_differ": "the thinking of job {job} was not reused. A check of {asked} questions found "
    "different thinking for {count} questions (first: question {first})",
    "cut_off_in_loops": lambda answers, total: (
        f"{answers:,} of {total:,} were cut off in a loop, which a higher token limit would only continue"
    ),
    "context_full": lambda answers: (
        f"{format_count(answers, 'answer')} ended because the model's context was full. Shorten the prompts, or "
        "extend the context (rope=yarn). A larger generation.max_new_tokens does not help"
    ),
    "no_chat_template": "without a chat template, messages are formatted as `User: …` and `Assistant: …`",
    "server_changed_model": "the server switched to another model during the job: {models}",
    # why a line that an earlier start recorded does not belong to this job
    "other_question": "its question or gold answer differs from question {index} of this job",
    "other_count": "the sample has {answers} answers, but this job needs {wanted}",
    "judged_differently": "the recorded verdict differs from the verdict that this version computes",
    "not_this_question": "the sample does not belong to question {index} of this job",
    "other_text": "the text differs from document {index} of this job",
    "no_likelihood": "the sample has no likelihood",
    "other_tokens": "the tokens differ from document {index} of this job",
    "counted_differently": "the recorded token counts differ from the counts that this version computes",
    "other_reference": "the sample was compared with a different reference model than this job",
    "no_line": "the sample has no matching line in {file}",
    "other_prompt": "the prompt differs from sample {index} of this job",
    "no_such_sample": "sample {index} does not exist in this job, which has only {prompts} prompts",
    "measurements_on_disk": "{count} of {total} measurements come from an earlier, interrupted run of this job",
    "measured_again": "{lines} measurements in {file} come from another version or machine and were repeated",
    "energy_not_priced": "price_kwh={price_kwh:g} has no effect. Energy: {reason}",
    "needless_scaling": lambda rope, positions, is_harmless: (
        f"rope={rope}: the longest sequence fits into the model's {positions:,} positions, so RoPE scaling "
        f"{'has no effect' if is_harmless else 'can only reduce the quality'}. Omit rope"
    ),
    "none_beyond": "{key} has no effect: no sequence is longer than {positions:,.0f} positions",
    "beyond": "rope={rope}: the longest sequence has {longest:,} tokens, but the {made} context has only "
    "{positions:,.0f} positions",
    "adapters": lambda mib: (
        f"the float32 adapters need memory in addition to the weights: "
        f"{', '.join(f'{name} {size:,.2f} MiB' for name, size in mib.items())}"
    ),
}

# ------------------------------------------------------------------------------------------- questions


def _format_suggested_token_limit(
    wanted: float, tokens: int, low: int | None, high: int | None, price: tuple[int, float | None] | None
) -> str:
    lower = f"{tokens:,} or fewer" if low is None else f"{low:,}"
    interval = f"95 % interval: {lower} to {'more than that' if high is None else f'{high:,}'}"
    enough = f"{LIMIT}={tokens:,} would let {wanted:.0%} of the answers finish ({interval})"
    return enough if price is None else f"{enough}. It costs {_price_text(*price)}"


def _format_unknown_token_limit(
    wanted: float, reached: float, limit: int, longer: int, price: tuple[int, float | None]
) -> str:
    return (
        f"only {reached:.0%} of the answers finished within {limit:,} tokens. That is too few to estimate "
        f"{LIMIT} for {wanted:.0%} of the answers. Try {longer:,}, which costs {_price_text(*price)}"
    )


def _price_text(tokens: int, seconds: float | None) -> str:
    time = f", {seconds:.2g} s at this job's speed" if seconds is not None else ""
    return f"at most {format_count(tokens, 'more token', 'more tokens')}{time}"


def _format_uncomparable_gold_answers_note(reasons: Sequence[tuple[int, str]]) -> str:
    some = join_first_names([f"question {index} {reason}" for index, reason in reasons], MAX_NAMED_ANSWERS)
    answers = format_count(len(reasons), "answer counts", "answers count")
    return f"{answers} as wrong, because the gold answer could not be compared: {some}"


def _format_contamination_test_result(only_original: int, only_twin: int, p: float, is_hint: bool) -> str:
    counts = (
        f"{format_count(only_original, 'question was', 'questions were')} "
        f"solved only with the original numbers, and {only_twin} "
        f"only with changed numbers (exact McNemar test, p = {p:.2g})"
    )
    if is_hint:
        return f"possible contamination: {counts}. The model may have seen these questions in training"
    return f"no contamination found: {counts}"


def _format_position_bias(p: float, letter: str, share: float, expected: float, ends: Sequence[float]) -> str:
    from runner_compare import format_percentage_points  # few jobs need it

    value, low, high = map(format_percentage_points, ends)
    return (
        f"position bias (p = {p:.2g}): the model chooses {letter} in {share:.1%} of the answers, but "
        f"{expected:.1%} is expected. Difference: {value} points, 95 % interval {low} to {high}"
    )


def _format_early_stopping_rule(
    named_as: str, job: str, state: str, margin: float | None, count: int, comparisons: int
) -> str:
    from runner_compare import format_margin_points, format_significance_level  # few jobs need them

    other = f"{named_as} ({job}, {state})"
    if margin is None:
        decided = f"the difference from {other} is statistically significant"
    else:
        decided = (
            f"a test decides whether the loss compared with {other} is within {format_margin_points(margin)}"
        )
    return (
        f"early stopping: the job ends when {decided}, or after {count:,} questions. Significance level "
        f"{format_significance_level(comparisons)}"
    )


QUESTIONS: dict[str, Template] = {
    "only": "task.only={file}: the job is limited to {count:,} questions",
    "without": "task.unscored={file} excludes {left_out:,} of {total:,} questions. The score covers {count:,}",
    "same_letter": "{letter} is the right choice of all {questions:,} questions. A model with a bias for "
    "{letter} scores too high. Shuffle the choices (task.choices_seed=0), or rotate them (task.rotate=4)",
    "unlike_lm_eval": "{key}={value}: scores are not comparable with lm-evaluation-harness, which uses {usual} for "
    "gsm8k",
    "enough_tokens": _format_suggested_token_limit,
    "enough_tokens_unknown": _format_unknown_token_limit,
    "two_bos": "every prompt begins with two BOS tokens, because the tokenizer adds one to the prompt's own. Remove "
    "the BOS token from the prompt",
    "chat_template_unused": "the model has a chat template, but the prompts are plain text. If it is tuned for chat, "
    "use task.prompt=chat",
    "thinking_removed": lambda answers: (
        f"only the text after the thinking was judged in {format_count(answers, 'answer')}"
    ),
    "cut_off_thinking": lambda answers: (
        f"{format_count(answers, 'answer')} reached the token limit during thinking. Raise "
        "generation.max_new_tokens. If the chat template supports it, you can turn thinking off with "
        "model.chat_template_kwargs.enable_thinking=false"
    ),
    "stopped_early": "the job stopped early, when the test had decided the comparison with {baseline}. Accuracy and "
    "observed difference are biased. Report the anytime-valid interval of the difference",
    "answers_not_compared": _format_uncomparable_gold_answers_note,
    "answers_changed": "{count} of {asked} answers changed when the same questions were repeated {how}. A difference "
    "of that size between two runs may be noise. model.dtype=float32 reduces this noise",
    "few_twins": "only {count} of the first {wanted} questions have numbers that can be changed",
    "twins": _format_contamination_test_result,
    "position_bias": _format_position_bias,
    "calls_written_in": "{form} ({reason})",
    "form_by_key": "task.tool_call_format={form}",
    "form_by_system": "requested by the system message",
    "form_by_template": "from the chat template",
    "form_unknown": "the default, because the chat template defines no format. Set task.tool_call_format to change it",
    "not_asked_again": "task.check_invariance=auto did nothing: in this engine, answers may depend on what else is in "
    "the batch, so the check would change them. task.check_invariance=20 asks 20 questions again afterwards, one at a "
    "time",
    "stops_early_against": _format_early_stopping_rule,
}

# ----------------------------------------------------------------------------------------- likelihoods


def _windows_text(window: int, step: int) -> str:
    return (
        f"perplexity: windows of {window} tokens with stride {step}. Each token except a document's first is "
        f"scored once, with at least {format_count(window - step, 'token')} of context if available"
    )


def _texts_too_short_text(texts: Sequence[int], total: int, tokens: int) -> str:
    are = format_count(len(texts), "document is", "documents are")
    return (
        f"{are} excluded as shorter than {tokens:,} tokens "
        f"({total} documents in total, excluded: {join_first_names([*map(str, texts)], MAX_NAMED_TEXTS)})"
    )


def _compared_with_kept_text(kept: int, drawn: int, reason: str, fix: str | None) -> str:
    advice = "" if fix is None else f". For the exact divergence, add {fix}"
    return (
        f"the divergence is an estimate, because {reason}. The reference stored {kept} top tokens and "
        f"{drawn} sampled tokens per position{advice}"
    )


def _both_too_large_text(needed_mib: float, share: float, free_mib: float) -> str:
    needs = format_against_limit(needed_mib, share * free_mib, fixed_decimals_formatter(0))
    return f"both models need an estimated {needs} MiB, more than {share:.0%} of the {free_mib:,.0f} MiB of free memory"


LIKELIHOODS: dict[str, Template] = {
    "windows": _windows_text,
    "answers_without_tokens": "{answers} answers have no recorded tokens, so their texts are tokenized again. "
    "{different} of them then give another text",
    "one_text": "there is only one document: its windows count as samples, although they depend on each other",
    "contexts": "task.context_lengths: each document's last {tokens} tokens are scored with each context length. "
    "The log-likelihood above is for the longest context, {longest:,} tokens",
    "texts_too_short": _texts_too_short_text,
    "text_without_prompt": _explain_missing_document_prompt,
    "lengths_unknown": "{key}: document lengths are unknown before loading. A document longer than the "
    "context of {room:.0f} tokens will end the job",
    "no_percentiles": "percentiles over tokens are missing, because an earlier version did not store {file}. Rerun the "
    "job with rerun=all",
    "reference": "reference: {named_as} ({job}), {state}",
    "reference_beside": "the reference {named_as} is loaded together with this model",
    "compared_with_kept": _compared_with_kept_text,
    "has_begun": "an earlier, interrupted run of this job estimated the divergence too",
    "reference_is_job": "{key}={named_as} is a job, not a model",
    "no_distributions": lambda is_own: (
        f"the engine of {'this model' if is_own else 'the reference'} does not return full distributions"
    ),
    "vocabularies_differ": "the vocabularies differ: {own:,} tokens in this model, {reference:,} in the reference",
    "memory_of_both_unknown": "it is unknown whether both models fit into memory together",
    "both_too_large": _both_too_large_text,
}
