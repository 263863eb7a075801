"""Definitions of metrics about questions, answers and tokens."""

from __future__ import annotations

from runner_base.tool_outcomes import STEPS, WITHOUT_NEED
from runner_compare.metrics.metric_types import (
    ENDS,
    BetterDirection,
    Metric,
    PoolingRule,
    define_counts,
    define_metric,
    define_metric_with_interval,
)

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
    define_metric("accuracy", form=".1%", better=BetterDirection.higher, pooling=PoolingRule.dropped),
    define_metric("accuracy_low", form=".1%", pooling=PoolingRule.dropped),
    define_metric("accuracy_high", form=".1%", pooling=PoolingRule.dropped),
    # of task=recall; also `…/length_1024`
    define_metric("recall_accuracy", "recall", ".1%", better=BetterDirection.higher),
    # of task=tools; also `…/parallel`
    define_metric("tool_accuracy", "right calls", ".1%", better=BetterDirection.higher),
    *(
        define_metric(f"{step}_share", step.replace("_", " "), ".1%", better=BetterDirection.higher)
        for step in (*STEPS, WITHOUT_NEED)
    ),
    define_metric("further_functions", form=",.0f"),  # that every question offers; also `…/length_4096`
    # of its kinds; also `…/niah_multikey_1_4096`
    define_metric("ruler_score", "RULER's score", ".1%", better=BetterDirection.higher),
    # up to which length recall is kept: as it was counted, as a test shows, and as no test excludes
    *(
        define_metric(
            f"effective_length_tokens{end}",
            label,
            ",.0f",
            better=BetterDirection.higher,
            pooling=PoolingRule.dropped,
        )
        for end, label in zip(
            ENDS, ("effective length, tokens", "reaches tokens", "may reach tokens"), strict=True
        )
    ),
    # with task.unscored
    *(define_metric(f"accuracy_all{end}", form=".1%", pooling=PoolingRule.dropped) for end in ENDS),
    # where answers were cut off: if all of them were wrong, or right; the 95 % interval of the
    # accuracy without a limit
    *(define_metric(key, form=".1%", pooling=PoolingRule.dropped) for key in BOUNDS),
    define_metric("finished_share", "share that finished", ".1%", better=BetterDirection.higher),
    define_metric(
        "max_new_tokens_for_95_percent", "tokens within which 95 % finish", ",.0f", pooling=PoolingRule.max
    ),
    *define_counts(BetterDirection.higher, "correct", "correct_all"),
    *define_counts(BetterDirection.lower, "wrong", "no_answer", "cut_off", "errors", "cancelled"),
    # how far the score can be trusted
    *define_counts(
        BetterDirection.lower, "extractors_differ", "stopped_by_length", "cut_off_thinking", "texts_changed"
    ),
    # the model's, and not generation.max_new_tokens
    *define_counts(BetterDirection.lower, "stopped_by_context"),
    *define_counts(BetterDirection.lower, "answers_changed"),
    define_metric("double_bos", form=".0f", better=BetterDirection.lower, pooling=PoolingRule.max),
    # answers that degenerated, and by which signs
    *define_counts(
        BetterDirection.lower,
        "degenerate",
        "loops",
        "cut_off_loops",
        "script_changes",
        "broken_characters",
        "empty_answers",
    ),
    *define_metric_with_interval("degenerate_share", "degenerate share", ".1%", BetterDirection.lower),
    define_metric("repeated_ngram_share", "repeated 4-word sequences", ".1%", better=BetterDirection.lower),
    define_metric("distinct_word_share", "distinct words", ".1%"),
    # the latter by extractor: `answers_found/strict`
    *define_counts(BetterDirection.neither, "answers_ended", "answers_found"),
    # answers of which only what follows the thinking was judged
    *define_counts(BetterDirection.neither, "thinking_removed"),
    # how much the model thought; also by how the answers ended: `endings/closed`
    *(
        define_metric(
            f"{part}_tokens_per_answer", f"{part} tokens", ",.1f", head_words=f"{part}\ntokens\n/answer"
        )
        for part in ("thinking", "answer")
    ),
    define_metric("thought_share", "answers with thinking", ".1%"),
    *define_counts(BetterDirection.neither, "endings"),
    *define_counts(BetterDirection.neither, "families"),  # of questions, by task.cluster
    *define_counts(BetterDirection.neither, "asked_again", "twins", "tied_votes"),
    *(
        define_metric(f"{what}_changed_share", form=".1%", better=BetterDirection.lower)
        for what in ("texts", "answers")
    ),
    *define_counts(BetterDirection.higher, "originals_correct", "twins_correct"),
    *define_counts(BetterDirection.neither, "only_original_correct", "only_twin_correct"),
    define_metric("twins_p", form=".2g", pooling=PoolingRule.dropped),
    # compared with another job while it asks
    *define_counts(
        BetterDirection.neither, "questions_asked", "questions_left", "early_stop_wins", "early_stop_losses"
    ),
    *define_metric_with_interval(
        "early_stop_difference_points",
        "difference from the baseline",
        "+.1f",
        BetterDirection.higher,
        unit="points",
    ),
    define_metric("early_stop_p", "anytime-valid p", ".2g", pooling=PoolingRule.dropped),
    # -1 worse, 0 undecided, 1 better
    define_metric("early_stop_decision", form="+.0f", pooling=PoolingRule.dropped),
    define_metric("early_stop_comparisons", form=".0f", pooling=PoolingRule.dropped),
    define_metric("early_stop_level", form=".2g", pooling=PoolingRule.dropped),
    define_metric("early_stop_final_test_part", form=".2g", pooling=PoolingRule.dropped),
    define_metric("early_stop_confidence_percent", "confidence", "g", unit="%", pooling=PoolingRule.dropped),
    # of guesses at every step; by the place in a guess: `acceptance_share/token_1`
    define_metric("acceptance_share", "accepted draft tokens", ".1%", better=BetterDirection.higher),
    # the choices of each question in several orders
    *define_counts(BetterDirection.neither, "questions_in_all_orders"),
    *define_metric_with_interval(
        "position_bias_points", "position bias", "+.1f", BetterDirection.lower, unit="points"
    ),
    define_metric("position_bias_p", "p of no position bias", ".2g", pooling=PoolingRule.dropped),
    define_metric(
        "same_in_all_orders_share", "the same choice in all orders", ".1%", better=BetterDirection.higher
    ),
    define_metric("right_in_all_orders_share", "correct in all orders", ".1%", better=BetterDirection.higher),
    # several answers to each question
    define_metric("answers_each", form=".0f"),
    *(
        define_metric(key, label.format("k"), ".1%", better=BetterDirection.higher)
        for key, label in BY_ANSWERS.items()
    ),
    *define_counts(
        BetterDirection.neither,
        "n",
        "n_all",
        "stopped",
        "prompt_tokens",
        "new_tokens",
        *OF_PREFILL,
        *OF_GUESSES,
    ),
    *(
        define_metric(
            f"{which}_tokens_per_question",
            f"{which} tokens a question",
            ",.0f",
            better=BetterDirection.lower,
            head_words=f"{which}\ntokens\n/question",
        )
        for which in ("prompt", "new")
    ),
)
