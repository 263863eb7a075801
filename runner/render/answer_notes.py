"""Texts of notes on answers: their origin, their reliability, and comparisons of scored texts."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import fixed_decimals_formatter, format_against_limit, format_count, join_first_names
from runner_base.render.notes import Template
from runner_compare.statistics import LIMIT

MAX_NAMED_TEXTS, MAX_NAMED_ANSWERS = 8, 3

# ------------------------------------------------------------------------ answers: kept, reused, asked


def _asked_again_text(count: int) -> str:
    once = format_count(
        count, "sample that had ended in an error was", "samples that had ended in an error were"
    )
    return f"{once} asked again"


def _text_without_prompt_text(number: int, window: int, last: int | None, contexts: Sequence[str]) -> str:
    how = f"it is scored in windows of {window} tokens"
    if last is not None:
        how = f"its last {last} tokens are scored after {', '.join(contexts)} tokens before them"
    return f"text {number} has no prompt: {how}"


ANSWERS: dict[str, Template] = {
    "samples_on_disk": "{count} of {total} samples were on disk from an earlier, interrupted run",
    "asked_again_after_error": _asked_again_text,
    "samples_reused": "{count} of {total} samples were taken from job {job}, which had put the same questions: their "
    "time, speed and cost are not counted here",
    "not_reused": "no answers were reused from job {job}: {reason}",
    "thoughts_reused": "{count} answers begin with the thoughts of job {job}, which differs in its budget only: their "
    "time is not counted here. {asked_directly} others were asked directly and thought the same",
    "thoughts_differ": "{count} of {asked} questions that were asked directly, number {first} first, have thought "
    "otherwise than job {job}, which differs in its budget only: none of its thoughts was reused",
    "context_full": lambda answers: (
        f"{format_count(answers, 'answer')} ended where the model's "
        "context was full: a larger generation.max_new_tokens "
        "changes nothing. Shorten the prompts, or extend the context (rope=yarn)"
    ),
    "no_chat_template": "the model has no chat template: turns are sent as `User: …` and `Assistant: …`",
    "server_changed_model": "the server changed to another model during the job: {models}",
    # why a line of an earlier start does not belong to a job
    "other_question": "holds another question or gold answer than question {index} of this job",
    "other_count": "holds {answers} answers, and this job asks for {wanted}",
    "judged_differently": "was judged differently than its text is today",
    "not_this_question": "is not question {index} of this job",
    "other_text": "holds another text than text {index} of this job",
    "no_likelihood": "has no likelihood",
    "other_tokens": "holds other tokens than text {index} of this job",
    "counted_differently": "was counted differently than its text is today",
    "other_reference": "was compared with another reference than this job has",
    "no_line": "has no line in {file}",
    "other_prompt": "answers another prompt than sample {index} of this job",
    "no_such_sample": "is sample {index}, and this job has {prompts} prompts",
    "measurements_on_disk": "{count} of {total} measurements were on disk from an earlier, interrupted run",
    "measured_again": "{lines} lines of {file} were measured with another version or on another machine, and were "
    "measured again",
    "energy_not_priced": "price_kwh={price_kwh:g} prices nothing: the energy was {reason}",
    "needless_scaling": lambda rope, positions, is_harmless: (
        f"rope={rope}: no text exceeds {positions:,} positions, the model's own: scaling "
        f"{'changes nothing' if is_harmless else 'can only hurt'} here"
    ),
    "none_beyond": "{key}: no text exceeds {positions:,.0f} positions, so it changes nothing",
    "beyond": "rope={rope}, beyond its {made} {positions:,.0f} positions: the longest text has {longest:,} tokens",
    "adapters": lambda mib: (
        "adapters beside the weights, in float32: "
        f"{', '.join(f'{name} {size:,.2f} MiB' for name, size in mib.items())}"
    ),
}

# ------------------------------------------------------------------------------------------- questions


def _enough_tokens_text(
    wanted: float, tokens: int, low: int | None, high: int | None, price: tuple[int, float | None] | None
) -> str:
    least = "at most that" if low is None else f"{low:,}"
    interval = f"95 % interval {least} to {'more' if high is None else f'{high:,}'}"
    enough = f"{LIMIT}={tokens:,} lets {wanted:.0%} of the answers finish ({interval})"
    return enough if price is None else f"{enough}, and {_price_text(*price)}"


def _enough_tokens_unknown_text(
    wanted: float, reached: float, limit: int, longer: int, price: tuple[int, float | None]
) -> str:
    return (
        f"which {LIMIT} lets {wanted:.0%} finish cannot be told from these answers: {reached:.0%} finished within "
        f"{limit:,}. {longer:,} {_price_text(*price)}"
    )


def _price_text(tokens: int, seconds: float | None) -> str:
    time = f", {seconds:.2g} s at this job's speed" if seconds is not None else ""
    return f"would take at most {format_count(tokens, 'token')} more{time}"


def _answers_not_compared_text(reasons: Sequence[tuple[int, str]]) -> str:
    some = join_first_names([f"question {index} {reason}" for index, reason in reasons], MAX_NAMED_ANSWERS)
    answers = format_count(len(reasons), "answer")
    return f"{answers} could not be compared with the right one, and counts as wrong: {some}"


def _perturbed_questions_text(only_original: int, only_twin: int, p: float, is_hint: bool) -> str:
    counts = (
        f"{only_original} questions were solved and their copies with other numbers were not, {only_twin} the other "
        f"way round (exact McNemar, p = {p:.2g})"
    )
    if is_hint:
        return f"a hint of contamination: {counts}: the model may know these questions by heart"
    return f"no sign of memorising is shown: {counts}"


def _position_bias_text(p: float, letter: str, share: float, expected: float, ends: Sequence[float]) -> str:
    from runner_compare import format_points  # few jobs need it

    value, low, high = map(format_points, ends)
    return (
        f"position bias (p = {p:.2g}): {letter} is chosen in {share:.1%} of the answers, and would be in "
        f"{expected:.1%} without ({value} points, 95 % {low} to {high})"
    )


def _stops_early_against_text(
    named_as: str, job: str, state: str, margin: float | None, count: int, comparisons: int
) -> str:
    from runner_compare import format_level, format_margin_points  # few jobs need them

    within = "" if margin is None else f", once it is decided whether within {format_margin_points(margin)}"
    return (
        f"stops early against {named_as} ({job}, {state}){within}; asks at most {count:,} questions; error "
        f"{format_level(comparisons)}"
    )


QUESTIONS: dict[str, Template] = {
    "only": "task.only={file}: {count:,} questions are asked",
    "without": "task.without={file}: {count:,} of {total:,} questions count; left out: {left_out:,}",
    "same_letter": "{letter} is the right choice of all {questions:,} questions, so a model that prefers {letter} "
    "looks as if it knew them: task.choices_seed=0 shuffles the choices, task.rotate=4 asks them in four orders",
    "unlike_lm_eval": "{key}={value}: lm-evaluation-harness has {usual} for gsm8k, so the scores cannot be compared",
    "enough_tokens": _enough_tokens_text,
    "enough_tokens_unknown": _enough_tokens_unknown_text,
    "two_bos": "every prompt begins with two BOS tokens, which the model has hardly seen: the prompt has one, and the "
    "tokenizer adds another",
    "chat_template_unused": "the model has a chat template, and was asked in plain text: if it was tuned for chats, "
    "use task.prompt=chat",
    "thinking_removed": lambda answers: (
        f"thinking was removed from {format_count(answers, 'answer')}: only what follows it was judged"
    ),
    "cut_off_thinking": lambda answers: (
        f"{format_count(answers, 'answer')} ended while the model was "
        "still thinking, which counts as cut off: give it a "
        "larger generation.max_new_tokens, or model.chat_template_kwargs.enable_thinking=false where the template "
        "reads it"
    ),
    "stopped_early": "stopped early, when the difference to {baseline} was decided: the accuracy and the plain "
    "difference are biased towards the verdict; quote the always-valid interval of the difference",
    "answers_not_compared": _answers_not_compared_text,
    "answers_changed": "{count} of {asked} answers changed when their questions were asked again {how}: differences of "
    "that size between two runs say nothing about the models (float32 changes fewer)",
    "few_twins": "copies with other numbers could be made of {count} of the first {wanted} questions only",
    "twins": _perturbed_questions_text,
    "position_bias": _position_bias_text,
    "calls_written_in": "{form} ({reason})",
    "form_by_key": "task.form={form}",
    "form_by_system": "as the system message asks",
    "form_by_template": "by the chat template",
    "form_unknown": "the chat template shows no form: task.form names another one",
    "not_asked_again": "task.check_invariance=auto asked nothing again: the rows of this engine may depend on each "
    "other, so the check would change the answers. task.check_invariance=20 asks 20 questions again after the others, "
    "one at a time",
    "stops_early_against": _stops_early_against_text,
}

# ----------------------------------------------------------------------------------------- likelihoods


def _windows_text(window: int, step: int) -> str:
    return (
        f"perplexity: windows of {window} tokens, each next one {step} further on: every token but a text's first is "
        f"scored once, after {format_count(window - step, 'token')} of context or all there are"
    )


def _texts_too_short_text(texts: Sequence[int], total: int, tokens: int) -> str:
    return (
        f"left out, in all contexts: {format_count(len(texts), 'text')} of {total} with fewer than {tokens:,} tokens "
        f"(number {join_first_names([*map(str, texts)], MAX_NAMED_TEXTS)})"
    )


def _compared_with_kept_text(kept: int, drawn: int, reason: str, fix: str | None) -> str:
    advice = "" if fix is None else f". For whole distributions add {fix}"
    return (
        f"compared with the {kept} most probable tokens that the reference kept, and {drawn} drawn ones, because "
        f"{reason}{advice}"
    )


def _both_too_large_text(needed_mib: float, share: float, free_mib: float) -> str:
    needs = format_against_limit(needed_mib, share * free_mib, fixed_decimals_formatter(0))
    return (
        f"both models beside each other are predicted to need {needs} MiB, more than {share:.0%} of the "
        f"{free_mib:,.0f} MiB that are free"
    )


LIKELIHOODS: dict[str, Template] = {
    "windows": _windows_text,
    "one_text": "one text: its windows count as samples, although they are not independent",
    "contexts": "contexts: the last {tokens} tokens of each text, each time after the tokens right before them; the "
    "log-likelihood above is that after {longest:,}",
    "texts_too_short": _texts_too_short_text,
    "text_without_prompt": _text_without_prompt_text,
    "lengths_unknown": "{key}: the model has room for {room:.0f} tokens, and its tokenizer cannot be read before the "
    "load: a text with more tokens will end the job",
    "no_percentiles": "some texts were compared by an earlier version, which kept no {file}: for percentiles over "
    "tokens run the job again with rerun=all",
    "reference": "reference: {named_as} ({job}), {state}",
    "reference_beside": "reference: {named_as}, loaded beside this model",
    "compared_with_kept": _compared_with_kept_text,
    "has_begun": "it has begun so",
    "reference_is_job": "{key}={named_as} names a job and not a model",
    "no_distributions": lambda is_own: (
        f"{'this model' if is_own else 'the reference'} gives no whole distributions"
    ),
    "vocabularies_differ": "the two vocabularies have {own:,} and {reference:,} tokens",
    "memory_of_both_unknown": "it is not known whether both models fit into memory beside each other",
    "both_too_large": _both_too_large_text,
}
