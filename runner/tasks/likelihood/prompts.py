"""Builds the prompts of scored texts as the model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.datasets.question_prompts import build_question_prompt, format_continuation
from runner.datasets.scored_texts import ScoredItem, TextContext
from runner.render.notes import format_note
from runner.tasks import Item, ResolvedJob, add_prompt_facts_to_report, get_model_kind, render_prompts
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.notes import note
from runner_engine import Engine, EngineReport, Prompt, Request
from runner_engine.sessions import check_scorable_prompt


def render_first_prompts(task: LikelihoodConfig, items: Sequence[ScoredItem], resolved: ResolvedJob) -> str:
    lines = []
    for number, given in enumerate(items[: task.show_prompt]):
        if given.form is TextContext.text:
            last = task.last_tokens if task.context_lengths else None
            form = note(
                "text_without_prompt",
                number=number,
                window=task.window,
                last=last,
                contexts=task.context_lengths,
            )
            lines.append(format_note(form))
            continue
        prompt = build_item_prompt(task, given)
        scored = " | ".join(format_scored_text(prompt, given, text) for text in given.texts)
        lines += [render_prompts(resolved, [Request(number, prompt)]), f"scored after it: {scored}"]
    return "\n".join(lines)


def reject_answers_inside_thinking(
    task: LikelihoodConfig, items: Sequence[ScoredItem], resolved: ResolvedJob
) -> None:
    """Raise ConfigError if the chat template puts the scored answers inside the thinking."""
    asked = next((given for given in items if given.form is TextContext.asked), None)
    if asked is not None and not isinstance(prompt := build_item_prompt(task, asked), str):
        check_scorable_prompt(prompt, get_model_kind(resolved.config.model).render_prompt(resolved, prompt))


def add_question_prompt_facts(
    task: LikelihoodConfig, items: Sequence[ScoredItem], engine: Engine, report: EngineReport
) -> None:
    asked = next((given for given in items if given.form is TextContext.asked), None)
    if asked is not None:
        form, first = (
            Request(0, build_item_prompt(task, question))
            for question in (replace(asked, question="QUESTION"), asked)
        )
        add_prompt_facts_to_report([task.prompt.value], form, first, engine, report)


def build_item_prompt(task: LikelihoodConfig, item: ScoredItem) -> Prompt:
    if item.answer is not None:
        return item.answer.prompt
    return (
        build_question_prompt(task, Item(item.question, "", ""), [])
        if item.form is TextContext.asked
        else item.question
    )


def format_scored_text(prompt: Prompt, item: ScoredItem, text: str) -> str:
    """Format the text that is scored after its prompt. In plain text, an answer begins with a space."""
    return format_continuation(prompt, text) if item.form is TextContext.asked else text
