"""Implements task.answers: the answers of a finished job are the documents."""

from __future__ import annotations

from collections.abc import Sequence

from runner.datasets.question_selection import QuestionSelection
from runner.datasets.scored_texts import ScoredItem
from runner.tasks import ResolvedJob, RunnerConfig, get_model_kind
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.recorded_answers import load_recorded_answers
from runner_base import ConfigError, Sample
from runner_base.notes import Note, note
from runner_engine import prompt_sha256

KEY = "task.answers"


def load_selected_recorded_answers(config: RunnerConfig, task: LikelihoodConfig) -> list[ScoredItem]:
    """Return the answers that task.offset, task.limit and task.shuffle_seed select."""
    assert task.answers is not None
    items = load_recorded_answers(config, KEY, task.answers)
    selection = QuestionSelection(task.limit, task.offset, task.shuffle_seed)
    chosen = [items[position] for position in selection.select_question_positions(len(items))]
    if not chosen:
        need = f"{KEY}={task.answers} has only {len(items)} answers"
        raise ConfigError(need, key="task.offset", value=task.offset, code="too_large")
    return chosen


def list_token_counts(items: Sequence[ScoredItem]) -> list[int] | None:
    """Return the number of tokens of each answer with its prompt. None if the data are no answers."""
    counts = [item.answer.prompt_tokens + item.answer.num_tokens for item in items if item.answer is not None]
    return counts or None


def require_unchanged_prompts_and_tokens(
    task: LikelihoodConfig, items: Sequence[ScoredItem], resolved: ResolvedJob
) -> None:
    """Raise ConfigError if the model reads other prompts, or other tokens of the answers, than the model that
    gave them. Only the tokenizer is loaded.
    """
    answers = [(item.answer, item.texts[0]) for item in items if item.answer is not None]
    if not answers:
        return
    kind = get_model_kind(resolved.config.model)
    encoded = kind.encode_prompts(resolved, [answer.prompt for answer, _ in answers])
    other_prompts = sum(
        prompt_sha256(seen) != answer.prompt_sha256
        for (answer, _), (seen, _) in zip(answers, encoded, strict=True)
    )
    decode = kind.create_decoder(resolved)
    other_tokens = sum(
        bool(answer.token_ids) and text not in decode(answer.token_ids) for answer, text in answers
    )
    for count, what in ((other_prompts, "the prompts"), (other_tokens, "the tokens")):
        if count:
            raise ConfigError(
                (
                    f"{what} of {count} of {len(answers)} answers are other ones for this model. Its data or "
                    "chat template have changed, or the model has another tokenizer"
                ),
                key=KEY,
                value=task.answers,
                code="mismatch",
            )


def make_retokenization_notes(
    items: Sequence[ScoredItem], samples: Sequence[Sample], resolved: ResolvedJob
) -> list[Note]:
    """Return a note on answers without recorded tokens: how many, and of how many the new tokens give another
    text.
    """
    texts = {
        index: item.texts[0]
        for index, item in enumerate(items)
        if item.answer is not None and not item.answer.token_ids
    }
    if not texts:
        return []
    decode = get_model_kind(resolved.config.model).create_decoder(resolved)
    different = sum(
        decode(sample.answer.token_ids) != texts[sample.index]
        for sample in samples
        if sample.index in texts and not sample.failed
    )
    return [note("answers_without_tokens", answers=len(texts), different=different)]
