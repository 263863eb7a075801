"""Metrics of questions and their answers, and of the tokens that they take."""

from __future__ import annotations

from runner_base.tool_outcomes import STEPS, WITHOUT_NEED
from runner_compare.metrics.kinds import ENDS, Better, Metric, Pooling, counts, metric, with_ends

ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")
BOUNDS = ("accuracy_cut_off_wrong", "accuracy_cut_off_right", "accuracy_uncut_low", "accuracy_uncut_high")
OF_CALLS = ("prompt_tokens", "new_tokens")
# the cost of a question that takes many calls
OF_QUESTION = ("prompt_tokens_per_question", "new_tokens_per_question")
# a shared beginning is computed once
OF_PREFILL = ("computed_prompt_tokens", "shared_prompt_tokens")
# guessed tokens, and how many of them the model confirmed
OF_GUESSES = ("draft_tokens", "accepted_tokens")
# with several answers to each question, for each number k of them: one of k is right, their vote
# is, all are
BY_ANSWERS = {"pass_at_k": "pass@{}", "maj_at_k": "maj@{}", "pass_hat_k": "pass^{}"}

METRICS: tuple[Metric, ...] = (
    # questions and answers
    # follows from n and correct
    metric("accuracy", form=".1%", better=Better.higher, pooling=Pooling.dropped),
    metric("accuracy_low", form=".1%", pooling=Pooling.dropped),
    metric("accuracy_high", form=".1%", pooling=Pooling.dropped),
    # of task=recall; also `…/length_1024`
    metric("recall_accuracy", "recall", ".1%", better=Better.higher),
    # of task=tools; also `…/parallel`
    metric("tool_accuracy", "right calls", ".1%", better=Better.higher),
    *(
        metric(f"{step}_share", step.replace("_", " "), ".1%", better=Better.higher)
        for step in (*STEPS, WITHOUT_NEED)
    ),
    metric("further_functions", form=",.0f"),  # that every question offers; also `…/length_4096`
    # of its kinds; also `…/niah_multikey_1_4096`
    metric("ruler_score", "RULER's score", ".1%", better=Better.higher),
    # up to which length recall is kept: as it was counted, as a test shows, and as no test excludes
    *(
        metric(f"effective_length_tokens{end}", label, ",.0f", better=Better.higher, pooling=Pooling.dropped)
        for end, label in zip(
            ENDS, ("effective length, tokens", "reaches tokens", "may reach tokens"), strict=True
        )
    ),
    # with task.without
    *(metric(f"accuracy_all{end}", form=".1%", pooling=Pooling.dropped) for end in ENDS),
    # where answers were cut off: if all of them were wrong, or right; the 95 % interval of the
    # accuracy without a limit
    *(metric(key, form=".1%", pooling=Pooling.dropped) for key in BOUNDS),
    metric("finished_share", "share that finished", ".1%", better=Better.higher),
    metric("max_new_tokens_for_95_percent", "tokens within which 95 % finish", ",.0f", pooling=Pooling.max),
    *counts(Better.higher, "correct", "correct_all"),
    *counts(Better.lower, "wrong", "no_answer", "cut_off", "errors", "cancelled"),
    # how far the score can be trusted
    *counts(Better.lower, "extractors_differ", "stopped_by_length", "cut_off_thinking", "texts_changed"),
    *counts(Better.lower, "stopped_by_context"),  # the model's, and not generation.max_new_tokens
    *counts(Better.lower, "answers_changed"),
    metric("double_bos", form=".0f", better=Better.lower, pooling=Pooling.max),
    # the latter by extractor: `answers_found/strict`
    *counts(Better.neither, "answers_ended", "answers_found"),
    # answers of which only what follows the thinking was judged
    *counts(Better.neither, "thinking_removed"),
    # how much the model thought; also by how the answers ended: `endings/closed`
    *(
        metric(f"{part}_tokens_per_answer", f"{part} tokens", ",.1f", head_words=f"{part}\ntokens\n/answer")
        for part in ("thinking", "answer")
    ),
    metric("thought_share", "answers with thinking", ".1%"),
    *counts(Better.neither, "endings"),
    *counts(Better.neither, "families"),  # of questions, by task.cluster
    *counts(Better.neither, "asked_again", "twins", "tied_votes"),
    *(metric(f"{what}_changed_share", form=".1%", better=Better.lower) for what in ("texts", "answers")),
    *counts(Better.higher, "originals_correct", "twins_correct"),
    *counts(Better.neither, "only_original_correct", "only_twin_correct"),
    metric("twins_p", form=".2g", pooling=Pooling.dropped),
    # compared with another job while it asks
    *counts(Better.neither, "questions_asked", "questions_left", "early_stop_wins", "early_stop_losses"),
    *with_ends(
        "early_stop_difference_points", "difference to the baseline", "+.1f", Better.higher, unit="points"
    ),
    metric("early_stop_p", "always-valid p", ".2g", pooling=Pooling.dropped),
    metric("early_stop_comparisons", form=".0f", pooling=Pooling.dropped),
    metric("early_stop_level", form=".2g", pooling=Pooling.dropped),
    metric("early_stop_confidence_percent", "confidence", "g", unit="%", pooling=Pooling.dropped),
    # of guesses at every step; by the place in a guess: `acceptance_share/token_1`
    metric("acceptance_share", "guessed tokens that were right", ".1%", better=Better.higher),
    # the choices of each question in several orders
    *counts(Better.neither, "questions_in_all_orders"),
    *with_ends("position_bias_points", "position bias", "+.1f", Better.lower, unit="points"),
    metric("position_bias_p", "p of no position bias", ".2g", pooling=Pooling.dropped),
    metric("same_in_all_orders_share", "the same choice in all orders", ".1%", better=Better.higher),
    metric("right_in_all_orders_share", "right in all orders", ".1%", better=Better.higher),
    # several answers to each question
    metric("answers_each", form=".0f"),
    *(metric(key, label.format("k"), ".1%", better=Better.higher) for key, label in BY_ANSWERS.items()),
    *counts(Better.neither, "n", "n_all", "stopped", "prompt_tokens", "new_tokens", *OF_PREFILL, *OF_GUESSES),
    *(
        metric(
            f"{which}_tokens_per_question",
            f"{which} tokens a question",
            ",.0f",
            better=Better.lower,
            head_words=f"{which}\ntokens\n/question",
        )
        for which in ("prompt", "new")
    ),
)
