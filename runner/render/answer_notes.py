"""Texts of notes on answers: their origin, their reliability, and comparisons of scored texts."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import fixed_decimals_formatter, format_against_limit, format_count, join_first_names
from runner_base.render.notes import Template
from runner_compare.statistics import LIMIT

MAX_NAMED_TEXTS, MAX_NAMED_ANSWERS = 8, 3

# ----------------------------------------------------------------------- answers: stored, reused, repeated


def _asked_again_text(count: int) -> str:
    were = format_count(count, "question was", "questions were")
    return (
        f"{were} asked again, because an earlier run recorded an error for {'it' if count == 1 else 'them'}"
    )


def _text_without_prompt_text(number: int, window: int, last: int | None, contexts: Sequence[str]) -> str:
    how = f"it is scored in windows of {window} tokens"
    if last is not None:
        how = f"its last {last} tokens are scored with {', '.join(contexts)} tokens of context"
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
    "thoughts_differ": "the thinking of job {job} was not reused: {count} of {asked} questions that were asked from "
    "the start led to other thinking (first: question {first}), although only the budget differs",
    "context_full": lambda answers: (
        f"{format_count(answers, 'answer')} ended because the model's context was full. A larger "
        "generation.max_new_tokens does not help: shorten the prompts, or extend the context (rope=yarn)"
    ),
    "no_chat_template": "the model has no chat template: messages are sent as `User: …` and `Assistant: …`",
    "server_changed_model": "the server switched to another model during the job: {models}",
    # why a line that an earlier start recorded does not belong to this job
    "other_question": "contains another question or gold answer than question {index} of this job",
    "other_count": "contains {answers} answers, but this job asks for {wanted}",
    "judged_differently": "contains a verdict that differs from what this version computes",
    "not_this_question": "does not belong to question {index} of this job",
    "other_text": "contains another document than document {index} of this job",
    "no_likelihood": "contains no likelihood",
    "other_tokens": "contains other tokens than document {index} of this job",
    "counted_differently": "contains counts that differ from what this version computes",
    "other_reference": "was compared with another reference model than this job uses",
    "no_line": "has no matching line in {file}",
    "other_prompt": "answers another prompt than sample {index} of this job",
    "no_such_sample": "is sample {index}, but this job has only {prompts} prompts",
    "measurements_on_disk": "{count} of {total} measurements come from an earlier, interrupted run of this job",
    "measured_again": "{lines} lines of {file} come from another version or machine: these points were measured again",
    "energy_not_priced": "price_kwh={price_kwh:g} has no effect: the energy was {reason}",
    "needless_scaling": lambda rope, positions, is_harmless: (
        f"rope={rope}: the longest sequence fits into the model's own {positions:,} positions, so scaling "
        f"{'changes nothing' if is_harmless else 'can only reduce the quality'}. Omit it"
    ),
    "none_beyond": "{key} has no effect: no sequence is longer than {positions:,.0f} positions",
    "beyond": "rope={rope}: the longest sequence has {longest:,} tokens, more than the {made} {positions:,.0f} "
    "positions",
    "adapters": lambda mib: (
        f"adapters in float32, in addition to the weights: "
        f"{', '.join(f'{name} {size:,.2f} MiB' for name, size in mib.items())}"
    ),
}

# ------------------------------------------------------------------------------------------- questions


def _enough_tokens_text(
    wanted: float, tokens: int, low: int | None, high: int | None, price: tuple[int, float | None] | None
) -> str:
    lower = f"{tokens:,} or fewer" if low is None else f"{low:,}"
    interval = f"95 % interval: {lower} to {'more than that' if high is None else f'{high:,}'}"
    enough = f"{LIMIT}={tokens:,} would let {wanted:.0%} of the answers finish ({interval})"
    return enough if price is None else f"{enough}. It costs {_price_text(*price)}"


def _enough_tokens_unknown_text(
    wanted: float, reached: float, limit: int, longer: int, price: tuple[int, float | None]
) -> str:
    return (
        f"too few answers finished to say which {LIMIT} lets {wanted:.0%} of them finish: {reached:.0%} did within "
        f"{limit:,} tokens. Try {longer:,}, which costs {_price_text(*price)}"
    )


def _price_text(tokens: int, seconds: float | None) -> str:
    time = f", {seconds:.2g} s at this job's speed" if seconds is not None else ""
    return f"at most {format_count(tokens, 'more token', 'more tokens')}{time}"


def _answers_not_compared_text(reasons: Sequence[tuple[int, str]]) -> str:
    some = join_first_names([f"question {index} {reason}" for index, reason in reasons], MAX_NAMED_ANSWERS)
    answers = format_count(len(reasons), "answer counts", "answers count")
    them = "it" if len(reasons) == 1 else "they"
    return f"{answers} as wrong, because {them} could not be compared with the gold answer: {some}"


def _perturbed_questions_text(only_original: int, only_twin: int, p: float, is_hint: bool) -> str:
    counts = (
        f"{format_count(only_original, 'question was', 'questions were')} "
        f"solved only as the original, {only_twin} only as "
        f"the copy with other numbers (exact McNemar test, p = {p:.2g})"
    )
    if is_hint:
        return f"possible contamination: {counts}. The model may have seen these questions in training"
    return f"no contamination found: {counts}"


def _position_bias_text(p: float, letter: str, share: float, expected: float, ends: Sequence[float]) -> str:
    from runner_compare import format_points  # few jobs need it

    value, low, high = map(format_points, ends)
    return (
        f"position bias (p = {p:.2g}): the model chooses {letter} in {share:.1%} of the answers; {expected:.1%} would "
        f"be expected ({value} points, 95 % interval {low} to {high})"
    )


def _stops_early_against_text(
    named_as: str, job: str, state: str, margin: float | None, count: int, comparisons: int
) -> str:
    from runner_compare import format_level, format_margin_points  # few jobs need them

    other = f"{named_as} ({job}, {state})"
    if margin is None:
        decided = f"the difference to {other} is decided"
    else:
        decided = f"it is decided whether the loss against {other} is within {format_margin_points(margin)}"
    return (
        f"early stopping: the job ends when {decided}. It asks at most {count:,} questions; error level "
        f"{format_level(comparisons)}"
    )


QUESTIONS: dict[str, Template] = {
    "only": "task.only={file}: only its {count:,} questions are asked",
    "without": "task.without={file}: {left_out:,} of {total:,} questions do not count; the score is over {count:,}",
    "same_letter": "{letter} is the right choice of all {questions:,} questions, so a model that prefers {letter} "
    "scores too high. Shuffle the choices (task.choices_seed=0), or ask each question in four orders (task.rotate=4)",
    "unlike_lm_eval": "{key}={value}: lm-evaluation-harness uses {usual} for gsm8k, so its scores are not comparable "
    "with these",
    "enough_tokens": _enough_tokens_text,
    "enough_tokens_unknown": _enough_tokens_unknown_text,
    "two_bos": "every prompt begins with two BOS tokens, which models rarely see in training: the prompt has one, and "
    "the tokenizer adds another. Remove the one in the prompt",
    "chat_template_unused": "the model has a chat template, but the prompts are plain text. If it is tuned for chat, "
    "use task.prompt=chat",
    "thinking_removed": lambda answers: (
        f"thinking was removed from {format_count(answers, 'answer')}: only the text after it was judged"
    ),
    "cut_off_thinking": lambda answers: (
        f"{format_count(answers, 'answer')} reached the token limit while "
        "the model was still thinking, and counts as cut "
        "off. Raise generation.max_new_tokens, or turn thinking off: model.chat_template_kwargs.enable_thinking=false "
        "(if the template supports it)"
    ),
    "stopped_early": "the job stopped early, when the difference to {baseline} was decided. The accuracy and the plain "
    "difference are biased towards the verdict: report the always-valid interval of the difference",
    "answers_not_compared": _answers_not_compared_text,
    "answers_changed": "{count} of {asked} answers changed when the same questions were asked again {how}. Differences "
    "of that size between two runs need not come from the models. model.dtype=float32 changes fewer answers",
    "few_twins": "only {count} of the first {wanted} questions could be copied with other numbers",
    "twins": _perturbed_questions_text,
    "position_bias": _position_bias_text,
    "calls_written_in": "{form} ({reason})",
    "form_by_key": "task.form={form}",
    "form_by_system": "requested by the system message",
    "form_by_template": "from the chat template",
    "form_unknown": "default: the chat template shows no format for tool calls. task.form sets another one",
    "not_asked_again": "task.check_invariance=auto did nothing: in this engine, answers may depend on what else is in "
    "the batch, so the check would change them. task.check_invariance=20 asks 20 questions again afterwards, one at a "
    "time",
    "stops_early_against": _stops_early_against_text,
}

# ----------------------------------------------------------------------------------------- likelihoods


def _windows_text(window: int, step: int) -> str:
    return (
        f"perplexity: windows of {window} tokens, {step} tokens apart. Every token but a document's first is scored "
        f"once, with at least {format_count(window - step, 'token')} of context where the document has them"
    )


def _texts_too_short_text(texts: Sequence[int], total: int, tokens: int) -> str:
    are = format_count(len(texts), "document is", "documents are")
    return (
        f"{are} left out in all contexts, of {total}: fewer than {tokens:,} tokens "
        f"(number {join_first_names([*map(str, texts)], MAX_NAMED_TEXTS)})"
    )


def _compared_with_kept_text(kept: int, drawn: int, reason: str, fix: str | None) -> str:
    advice = "" if fix is None else f". To compare whole distributions, add {fix}"
    return (
        f"the divergence is estimated from the reference's {kept} most probable tokens and {drawn} sampled ones, "
        f"because {reason}{advice}"
    )


def _both_too_large_text(needed_mib: float, share: float, free_mib: float) -> str:
    needs = format_against_limit(needed_mib, share * free_mib, fixed_decimals_formatter(0))
    return (
        f"both models together are predicted to need {needs} MiB, more than {share:.0%} of the {free_mib:,.0f} MiB "
        "of free memory"
    )


LIKELIHOODS: dict[str, Template] = {
    "windows": _windows_text,
    "one_text": "there is only one document: its windows count as samples, although they depend on each other",
    "contexts": "contexts: the last {tokens} tokens of each document are scored with each length of context. The "
    "log-likelihood above is that with {longest:,} tokens",
    "texts_too_short": _texts_too_short_text,
    "text_without_prompt": _text_without_prompt_text,
    "lengths_unknown": "{key}: the model has room for {room:.0f} tokens, and the documents cannot be counted before "
    "the load. A longer document will end the job",
    "no_percentiles": "no percentiles over tokens: an earlier version compared some documents and stored no {file}. "
    "Run the job again with rerun=all",
    "reference": "reference: {named_as} ({job}), {state}",
    "reference_beside": "reference: {named_as}, loaded together with this model",
    "compared_with_kept": _compared_with_kept_text,
    "has_begun": "an earlier start of this job did so",
    "reference_is_job": "{key}={named_as} names a job, not a model",
    "no_distributions": lambda is_own: (
        f"{'this model' if is_own else 'the reference'} does not return whole distributions"
    ),
    "vocabularies_differ": "the vocabularies differ: {own:,} tokens here, {reference:,} in the reference",
    "memory_of_both_unknown": "it is unknown whether both models fit into memory together",
    "both_too_large": _both_too_large_text,
}
